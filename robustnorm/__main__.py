import sys

from robustnorm.cli import main

sys.exit(main())
