"""Work on threads ahead of whom it is for: samples are read while those before are segmented."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import count
from typing import Any, Callable, Deque, Generator, Iterable, Iterator


def read_ahead(dataset: Any, indices: Iterable[int], depth: int = 3) -> Generator[Any, None, None]:
    """Items of ``dataset`` in the order of ``indices``, at most ``depth`` of them read in advance.

    An error of the data set comes out where its item would have. Close the generator when
    leaving early: that drops what is waiting to be read.
    """
    return done_ahead(dataset.__getitem__, indices, depth)


def done_ahead(
    function: Callable[[Any], Any], items: Iterable[Any], depth: int, threads: int = 1
) -> Generator[Any, None, None]:
    """The same for a function of each item, on so many threads; ``items`` is iterated here."""
    waiting: Deque[Future] = deque()
    with ThreadPoolExecutor(max_workers=threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def iterate_ahead(items: Iterable[Any]) -> Generator[Any, None, None]:
    """The same for something that can only be iterated; its iterator runs on the thread."""
    with closing(read_ahead(_Next(iter(items)), count())) as found:
        for item in found:
            if item is _END:
                return
            yield item


_END = object()


class _Next:
    """What comes next, whatever index is asked for."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items

    def __getitem__(self, index: int) -> Any:
        return next(self._items, _END)
