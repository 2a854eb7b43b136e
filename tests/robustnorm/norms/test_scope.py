"""Tasks, threads and suspended functions: the branch of the block that code was called in."""

import asyncio
import contextvars
import gc
import threading
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest
import torch

from robustnorm import RoutingError, bind, route
from robustnorm.norms import AuxBN

ZERO = torch.zeros(1, 1, 2, 2)


@pytest.fixture
def layer():
    """A layer in evaluation mode whose branch i adds i to the images."""
    layer = AuxBN(1).eval()
    layer.bias.data.copy_(torch.arange(2.0)[:, None])
    return layer


def active(layer):
    """Which branch runs, or that none does."""
    try:
        return layer(ZERO).unique().item()
    except RoutingError:
        return "refused"


def generate(layer, branch, times=3):
    with route(layer, branch):
        for _ in range(times):
            yield active(layer)


@pytest.mark.parametrize("first_to_wake", ["clean", "adv"])
def test_tasks_that_wait_inside_their_blocks_keep_their_branches(layer, first_to_wake):
    async def work(branch):
        with route(layer, branch):
            before = active(layer)
            await asyncio.sleep(0.01 if branch == first_to_wake else 0.03)
            return before, active(layer)

    async def main():
        return await asyncio.gather(work("clean"), work("adv"))

    assert asyncio.run(main()) == [(0, 0), (1, 1)]


def test_coroutines_driven_by_hand_keep_their_branches(layer):
    class Pause:
        def __await__(self):
            yield

    async def work(branch):
        with route(layer, branch):
            await Pause()
            seen.append((branch, active(layer)))

    seen = []
    works = [work("clean"), work("adv")]
    for coroutine in works:
        coroutine.send(None)
    assert active(layer) == "refused"
    for coroutine in works:
        with pytest.raises(StopIteration):
            coroutine.send(None)
    assert seen == [("clean", 0), ("adv", 1)]


def test_awaited_coroutine_runs_in_the_block_it_is_awaited_in(layer):
    async def inner():
        await asyncio.sleep(0)
        return active(layer)

    async def main():
        with route(layer, "clean"), route(layer, "adv"):
            return await inner()

    assert asyncio.run(main()) == 1


def test_task_opens_its_own_route(layer):
    async def child():
        with route(layer, "clean"):
            own = active(layer)
        return own, active(layer)

    async def main():
        with route(layer, "adv"):
            return await asyncio.create_task(child()), active(layer)

    assert asyncio.run(main()) == ((0, "refused"), 1)


def test_task_that_starts_after_the_block_is_refused(layer):
    async def child():
        return active(layer)

    def start():
        with route(layer, "adv"):
            return asyncio.create_task(child())

    async def main():
        return await start()

    assert asyncio.run(main()) == "refused"


@pytest.mark.parametrize("run", ["to_thread", "copied context"])
def test_thread_with_a_copied_context_is_refused(layer, run):
    async def main():
        with route(layer, "adv"):
            return await asyncio.to_thread(active, layer)

    if run == "to_thread":
        assert asyncio.run(main()) == "refused"
        return
    seen = []
    with route(layer, "adv"):
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: seen.append(context.run(active, layer)))
        thread.start()
        thread.join()
    assert seen == ["refused"]


def test_event_loop_inside_a_block_follows_it(layer):
    async def main():
        await asyncio.sleep(0)
        return active(layer)

    with route(layer, "adv"):
        assert asyncio.run(main()) == 1


def test_suspended_generator_leaves_its_caller_alone(layer):
    generator = generate(layer, "adv")
    assert next(generator) == 1
    assert active(layer) == "refused"
    with route(layer, "clean"):
        assert active(layer) == 0
        assert next(generator) == 1  # though the caller's block is the younger one
        assert active(layer) == 0
    assert next(generator) == 1
    with pytest.raises(StopIteration):
        next(generator)
    assert active(layer) == "refused"


def test_generator_without_a_block_of_its_own_follows_its_caller(layer):
    def values():
        while True:
            yield active(layer)

    generator = values()
    for number, branch in enumerate(layer.branches):
        with route(layer, branch):
            assert next(generator) == number
    assert next(generator) == "refused"


def test_generators_inside_each_other(layer):
    def outer():
        with route(layer, "clean"):
            for seen in generate(layer, "adv"):
                yield seen, active(layer)
            yield from generate(layer, "adv", 1)

    generator = outer()
    for expected in ([(1, 0)] * 3) + [1]:
        assert next(generator) == expected
        assert active(layer) == "refused"


def test_function_called_by_a_generator_may_have_a_block_of_its_own(layer):
    def inside():
        with route(layer, "clean"):
            return active(layer)

    def values():
        with route(layer, "adv"):
            yield inside(), active(layer)

    assert list(values()) == [(0, 1)]


def test_forgotten_generator_closes_its_block(layer):
    generator = generate(layer, "adv")
    next(generator)
    with route(layer, "clean"):
        del generator
        gc.collect()
        assert active(layer) == 0
    assert active(layer) == "refused"


def test_async_generator_leaves_its_caller_alone(layer):
    async def values():
        with route(layer, "adv"):
            yield active(layer)
            await asyncio.sleep(0)
            yield active(layer)

    async def main():
        return [(seen, active(layer)) async for seen in values()]

    assert asyncio.run(main()) == [(1, "refused")] * 2


def test_block_opened_by_a_context_manager_holds_for_its_user(layer):
    @contextmanager
    def inner():
        with route(layer, "adv"):
            yield

    @contextmanager
    def outer():
        with ExitStack() as stack:
            stack.enter_context(inner())
            yield

    class Manager:
        def __enter__(self):
            self.route = route(layer, "clean")
            self.route.__enter__()

        def __exit__(self, *error):
            self.route.__exit__(*error)

    def values():
        with outer():
            yield active(layer)
            with Manager():
                yield active(layer)
            yield active(layer)

    with outer():
        assert active(layer) == 1
    with Manager():
        assert active(layer) == 0
    for expected, seen in zip([1, 0, 1], values(), strict=True):
        assert seen == expected
        assert active(layer) == "refused"


def test_block_opened_by_an_async_context_manager_holds_for_its_user(layer):
    @asynccontextmanager
    async def outer():
        with route(layer, "adv"):
            await asyncio.sleep(0)
            yield

    class Manager:
        async def __aenter__(self):
            self.route = route(layer, "clean")
            self.route.__enter__()

        async def __aexit__(self, *error):
            self.route.__exit__(*error)

    async def work():
        async with outer():
            before = active(layer)
            async with Manager():
                inside = active(layer)
                await asyncio.sleep(0)
                return before, inside, active(layer)

    async def main():
        return await asyncio.gather(work(), work()), active(layer)

    assert asyncio.run(main()) == ([(1, 0, 0)] * 2, "refused")


def test_decorated_function_runs_its_branch(layer):
    assert route(layer, "adv")(active)(layer) == 1


def test_compiled_model_follows_tasks_and_generators(layer):
    torch.compiler.reset()
    compiled = torch.compile(layer, backend="eager")

    async def work(branch):
        with route(layer, branch):
            await asyncio.sleep(0)
            return active(compiled)

    async def main():
        return await asyncio.gather(work("clean"), work("adv"))

    with route(layer, "clean"):
        assert active(compiled) == 0
    assert asyncio.run(main()) == [0, 1]
    generator = generate(compiled, "adv")
    assert next(generator) == 1
    assert active(compiled) == "refused"
    with route(layer, "clean"):
        assert active(compiled) == 0
        assert next(generator) == 1


def test_compiled_bind_in_a_generator_runs_its_branch(layer):
    torch.compiler.reset()
    compiled = torch.compile(bind(layer, "adv"), backend="eager")

    def values():
        with route(layer, "clean"):
            yield compiled(ZERO).unique().item(), active(layer)

    assert list(values()) == [(1, 0)]
