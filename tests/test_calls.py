"""Decorated calls of every form: what comes out is what would without us, and each is a run that ends as it did."""

import abc
import asyncio
import contextlib
import contextvars
import functools
import gc
import inspect
import multiprocessing
import pickle
import subprocess
import sys
import threading
import types

import pytest
import stored_runs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tracker
from tracker.session.calls import decorated
from tracker.session.live import LiveRun


class Recordings:
    """Starts runs that only say how they ended: the arguments of decorated() beside the function."""

    def __init__(self):
        self.names = []
        self.ends = []

    def start(self, name):
        number = len(self.names)
        self.names.append(name)
        self.ends.append(None)
        return LiveRun(_Recording(self, number))


class _Recording:
    def __init__(self, recordings, number):
        self._recordings, self._number = recordings, number

    def finish(self, status):
        assert self._recordings.ends[self._number] is None
        self._recordings.ends[self._number] = status


@pytest.fixture
def runs():
    return Recordings()


def outcome(call):
    try:
        return "gave", call()
    except BaseException as exc:  # noqa: BLE001 (told)
        context = exc.__context__
        return type(exc), exc.args, type(context), isinstance(exc, StopIteration) and exc.value


# Generators


def scripted(behaviour):
    """A generator that answers what is thrown into it in one of the ways that people write."""

    def generator(seen):
        for turn, how in enumerate(behaviour):
            try:
                seen.append((yield turn))
            except ValueError as exc:
                seen.append(repr(exc))
                if how == "raise another":
                    raise KeyError(turn) from None
                if how == "raise in context":
                    raise KeyError(turn)  # noqa: B904 (its context is the point)
                if how == "return":
                    return "early"
                if how == "raise":
                    raise
            except GeneratorExit:
                if how == "return":
                    return "closed"
                raise
            if how == "raise later":
                raise LookupError(turn)
            if how == "see":
                seen.append(sys.exc_info()[0])
        return "end"

    return generator


BEHAVIOUR = st.lists(
    st.sampled_from(["go on", "raise", "raise another", "raise in context", "raise later", "return", "see"]), max_size=4
)
STEPS = st.lists(
    st.one_of(
        st.just(("next",)),
        st.tuples(st.just("send"), st.integers(0, 3)),
        st.tuples(
            st.just("throw"), st.sampled_from([ValueError("x"), GeneratorExit(), KeyboardInterrupt(), OSError(1)])
        ),
        st.just(("close",)),
    ),
    max_size=6,
)


def played(generator, seen, steps):
    """Everything that a caller of a generator can see."""
    iterator = generator(seen)
    told = []
    for name, *arguments in steps:
        if name == "throw":  # an exception of its own, as each keeps its context
            arguments = [type(arguments[0])(*arguments[0].args)]
        step = functools.partial(next, iterator) if name == "next" else getattr(iterator, name)
        told.append(outcome(functools.partial(step, *arguments)))
    iterator.close()
    return told, seen


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(behaviour=BEHAVIOUR, steps=STEPS)
def test_a_decorated_generator_cannot_be_told_from_a_plain_one(behaviour, steps):
    runs = Recordings()
    plain = scripted(behaviour)

    assert played(decorated(plain, None, runs.start), [], steps) == played(plain, [], steps)
    assert None not in runs.ends and len(runs.names) <= 1


async def played_async(generator, seen, steps):
    iterator = generator(seen)
    told = []
    for name, *arguments in steps:
        call = {"next": iterator.__anext__, "send": iterator.asend, "throw": iterator.athrow, "close": iterator.aclose}
        if name == "throw":
            arguments = [type(arguments[0])(*arguments[0].args)]
        try:
            told.append(("gave", await call[name](*arguments)))
        except BaseException as exc:  # noqa: BLE001 (told)
            told.append((type(exc), exc.args, type(exc.__context__)))
    await iterator.aclose()
    return told, seen


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    behaviour=BEHAVIOUR,
    steps=STEPS.map(lambda steps: [s for s in steps if s[0] != "throw" or not isinstance(s[1], GeneratorExit)]),
)
def test_a_decorated_async_generator_cannot_be_told_from_a_plain_one(behaviour, steps):
    async def plain(seen):
        for turn, how in enumerate(behaviour):
            try:
                await asyncio.sleep(0)
                seen.append((yield turn))
            except ValueError as exc:
                seen.append(repr(exc))
                if how.startswith("raise in"):
                    raise KeyError(turn)  # noqa: B904 (its context is the point)
                if how == "return":
                    return
                if how == "raise":
                    raise
            if how == "raise later":
                raise LookupError(turn)
            if how == "see":
                seen.append(sys.exc_info()[0])

    runs = Recordings()
    tracked = decorated(plain, None, runs.start)

    async def both():
        return await played_async(tracked, [], steps), await played_async(plain, [], steps)

    ours, theirs = asyncio.run(both())
    assert ours == theirs
    assert None not in runs.ends and len(runs.names) <= 1


def test_a_generator_that_recurses_is_one_run_and_two_in_turn_are_two(runs):
    def walk(depth):
        yield depth
        if depth:
            yield from tracked(depth - 1)

    tracked = decorated(walk, None, runs.start)

    assert list(tracked(3)) == [3, 2, 1, 0] and runs.ends == ["finished"]
    assert list(zip(tracked(2), tracked(2), strict=True)) == [(2, 2), (1, 1), (0, 0)] and len(runs.names) == 3
    first = tracked(1)
    next(first)
    assert list(tracked(1)) == [1, 0] and len(runs.names) == 5  # between two steps of the first it is no recursion
    del first
    gc.collect()
    assert runs.ends == ["finished"] * 5


def test_what_is_thrown_into_a_generator_is_not_kept_alive_by_it(runs):
    def generator():
        with contextlib.suppress(ValueError):
            yield 1
        yield 2

    class MineError(ValueError):
        pass

    iterator = decorated(generator, None, runs.start)()
    next(iterator)
    iterator.throw(MineError())
    gc.disable()
    try:
        assert not [one for one in gc.get_objects() if type(one) is MineError]
    finally:
        gc.enable()
    iterator.close()


# Coroutines


@pytest.mark.parametrize(
    ("how", "status"),
    [("returns", "finished"), ("raises", "failed"), ("is cancelled", "failed"), ("times out", "failed")],
)
def test_a_coroutine_ends_its_run_as_it_ends(how, status, runs):
    async def work():
        if how == "raises":
            raise ExceptionGroup("several", [ValueError(1), OSError(2)])
        await asyncio.sleep(30 if how in ("is cancelled", "times out") else 0)
        return 7

    tracked = decorated(work, None, runs.start)

    async def main():
        if how == "times out":
            async with asyncio.timeout(0.01):
                await tracked()
        task = asyncio.create_task(tracked())
        await asyncio.sleep(0)
        if how == "is cancelled":
            task.cancel("enough")
        return await task

    expected = {"raises": ExceptionGroup, "is cancelled": asyncio.CancelledError, "times out": TimeoutError}
    if how == "returns":
        assert asyncio.run(main()) == 7
    else:
        with pytest.raises(expected[how]) as caught:
            asyncio.run(main())
        if how == "is cancelled":
            assert caught.value.args == ("enough",)
        if how == "raises":
            assert [type(one) for one in caught.value.exceptions] == [ValueError, OSError]
    assert runs.ends == [status]


def test_tasks_at_once_are_runs_of_their_own_and_one_that_awaits_itself_is_one(runs):
    async def work(depth):
        await asyncio.sleep(0)
        return depth if depth == 0 else await tracked(depth - 1) + 1

    tracked = decorated(work, None, runs.start)

    async def main():
        return await asyncio.gather(tracked(2), tracked(3), asyncio.create_task(tracked(1)))

    assert asyncio.run(main()) == [2, 3, 1] and runs.ends == ["finished"] * 3


def test_a_coroutine_closed_in_another_context_raises_nothing_of_ours(runs):
    @types.coroutine
    def pause():
        yield

    async def work():
        await pause()

    coroutine = decorated(work, None, runs.start)()
    contextvars.copy_context().run(coroutine.send, None)
    contextvars.copy_context().run(coroutine.close)

    assert runs.ends == ["finished"]


def test_context_variables_set_by_the_function_are_seen_by_its_caller_as_without_us(runs):
    variable = contextvars.ContextVar("variable", default=0)

    def work():
        variable.set(5)

    def generator():
        variable.set(variable.get() + 1)
        yield variable.get()

    decorated(work, None, runs.start)()
    assert variable.get() == 5
    assert list(decorated(generator, None, runs.start)()) == [6] and variable.get() == 6


# What is decorated


class Model:
    """Every kind of method, the decorator above and below."""

    runs = Recordings()
    factor = 3

    def __init__(self):
        self.state = 1

    @functools.partial(decorated, name=None, start=runs.start)
    def method(self, x):
        "doc"
        return self.factor * x

    @staticmethod
    @functools.partial(decorated, name=None, start=runs.start)
    def static_below(x):
        return x + 1

    @functools.partial(decorated, name=None, start=runs.start)
    @staticmethod
    def static_above(x):
        return x + 1

    @classmethod
    @functools.partial(decorated, name=None, start=runs.start)
    def class_below(cls, x):
        return cls.factor + x

    @functools.partial(decorated, name=None, start=runs.start)
    @classmethod
    def class_above(cls, x):
        return cls.factor + x

    @property
    @functools.partial(decorated, name=None, start=runs.start)
    def value(self):
        return self.state

    @functools.cached_property
    @functools.partial(decorated, name="cached", start=runs.start)
    def cached(self):
        return self.state

    @functools.partial(decorated, name=None, start=runs.start)
    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    ("call", "result", "name"),
    [
        (lambda m: m.method(2), 6, "Model.method"),
        (lambda m: Model.method(m, 2), 6, "Model.method"),
        (lambda m: m.static_below(1), 2, "Model.static_below"),
        (lambda m: Model.static_above(1), 2, "Model.static_above"),
        (lambda m: Model.class_below(1), 4, "Model.class_below"),
        (lambda m: m.class_above(1), 4, "Model.class_above"),
        (lambda m: m.value, 1, "Model.value"),
        (lambda m: m.cached + m.cached, 2, "cached"),
        (lambda m: m(4), 4, "Model.__call__"),
    ],
)
def test_methods_of_every_kind_are_one_run_a_call(call, result, name):
    # Case 403: None in place of the result, a TypeError, "wrapper" as name.
    Model.runs.__init__()

    assert call(Model()) == result and (Model.runs.names, Model.runs.ends) == ([name], ["finished"])


def every_kind():
    def function(a, *, b: int = 2) -> int:
        "doc"
        return a + b

    async def coroutine(a):
        "doc"

    def generator(a):
        "doc"
        yield a

    async def async_generator(a):
        "doc"
        yield a

    return [function, coroutine, generator, async_generator]


@pytest.mark.parametrize("number", range(4), ids=["function", "coroutine", "generator", "async generator"])
def test_all_that_is_told_of_a_function_is_told_of_the_decorated_one(number, runs):
    function = every_kind()[number]
    function.marked = "mine"
    tracked = decorated(function, None, runs.start)

    for what in (
        *(inspect.signature, inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction),
        *(inspect.getdoc, inspect.isfunction, inspect.get_annotations, inspect.getsource),
    ):
        assert what(tracked) == what(function), what
    for name in ("__name__", "__qualname__", "__module__", "marked"):
        assert getattr(tracked, name) == getattr(function, name)
    assert tracked.__wrapped__ is function and inspect.unwrap(tracked) is function and runs.names == []


def test_an_abstract_method_stays_abstract(runs):
    class Base(abc.ABC):
        @functools.partial(decorated, name=None, start=runs.start)
        @abc.abstractmethod
        def train(self): ...

    with pytest.raises(TypeError, match="abstract"):
        Base()


def test_objects_that_are_called_like_functions_are_of_the_kind_of_their_call(runs):
    class Trainer:
        async def __call__(self, x):
            await asyncio.sleep(0)
            return x

    class Steps:
        def __call__(self, n):
            yield from range(n)

    assert asyncio.run(decorated(Trainer(), None, runs.start)(5)) == 5
    assert list(decorated(Steps(), None, runs.start)(2)) == [0, 1]
    assert decorated(functools.partial(functools.partial(pow, 2), 3), None, runs.start)() == 8
    assert decorated(functools.lru_cache(lambda x: x), None, runs.start)(1) == 1
    assert runs.names[:3] == [n for n in runs.names if n.endswith(("Trainer", "Steps", "pow"))]
    assert runs.ends == ["finished"] * 4


def test_an_old_style_coroutine_can_still_be_awaited(runs):
    @types.coroutine
    def old():
        yield
        return 3

    async def main():
        return await decorated(old, None, runs.start)()

    assert asyncio.run(main()) == 3 and runs.ends == ["finished"]


@pytest.mark.parametrize("wrong", [type("Model", (), {}), property(len), 5, [], functools.partialmethod(len)])
def test_what_is_no_function_is_refused_at_once_and_said(wrong):
    with pytest.raises(TypeError, match="track decorates functions"):
        tracker.track(project="p")(wrong)
    if isinstance(wrong, type):
        with pytest.raises(TypeError, match="not classes"):
            tracker.track(wrong)


def test_threads_are_runs_of_their_own_though_one_recurses(runs):
    barrier = threading.Barrier(3)

    def work(depth):
        barrier.wait() if depth == 2 else None
        return depth and tracked(depth - 1)

    tracked = decorated(work, None, runs.start)
    threads = [threading.Thread(target=tracked, args=(2,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert runs.ends == ["finished"] * 3


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(), "finished"),
        (SystemExit(0), "finished"),
        (SystemExit("no"), "failed"),
        (SystemExit(3), "failed"),
        (GeneratorExit(), "finished"),
        (BaseExceptionGroup("g", [KeyboardInterrupt()]), "failed"),
        (StopIteration(4), "failed"),
    ],
)
def test_exceptions_go_through_as_the_same_object_with_the_place_they_come_from(raised, status, runs):
    def work():
        raise raised

    with pytest.raises(type(raised)) as caught:
        decorated(work, None, runs.start)()

    assert caught.value is raised and caught.traceback[-1].name == "work" and raised.__context__ is None
    assert runs.ends == [status]


# Track itself


@tracker.track(project="p")
def at_module_level(x):
    return x + 1


@tracker.track
def without_brackets(x):
    return x * 2


def _in_child(work, queue):
    queue.put(work(1))


@pytest.fixture
def quiet(tmp_path, monkeypatch):
    for name, value in {"TRACKER_GPUS": "none", "TRACKER_ZONE": "FR", "TRACKER_DB": str(tmp_path / "runs.db")}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "sys").mkdir()
    monkeypatch.setenv("TRACKER_SYSFS", str(tmp_path / "sys"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_decorated_function_goes_to_another_process(quiet):
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(at_module_level, queue))
    child.start()
    child.join()

    assert queue.get() == 2 and [(run.project, run.status) for run in tracker.runs()] == [("p", "finished")]


def test_settings_are_pickled_without_the_runs_that_they_started(quiet):
    track = tracker.track("x", tags={"a": "b"}, budget={"energy_j": 1e9}, total_steps=5)
    with track:
        again = pickle.loads(pickle.dumps(track))
        assert again._within == [] and again._latest is None
    with again as live:
        pass
    assert live.run.tags == {"a": "b"}


def test_stop_of_the_settings_ends_what_start_began_before_any_start_it_says_so(quiet, caplog):
    track = tracker.track("x")
    assert track.stop().status == "disabled" and [m for m in caplog.messages if "before start()" in m]
    live = track.start()
    assert track.stop() == live.stop() == track.stop() and live.run.status == "finished"
    assert [run.id for run in tracker.runs()] == [live.run.id]


def test_a_block_left_in_another_context_than_entered_still_ends_its_run(quiet):
    async def stream():
        with tracker.track("stream"):
            yield 1

    async def main():
        async for _ in stream():
            return  # the loop closes the generator later, in a task of its own

    asyncio.run(main())
    assert [run.status in ("finished", "failed") for run in tracker.runs()] == [True]  # at its end the loop cancels it


def test_a_decorated_function_of_a_notebook_goes_through_cloudpickle(quiet):
    import cloudpickle

    code = f"import pickle, sys; print(pickle.loads({cloudpickle.dumps(without_brackets)!r})(4))"
    path = f"{stored_runs.ROOT}:{stored_runs.ROOT / 'tests'}"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.stdout == "8\n", done.stderr
