"""Read frames on a thread while the ones before them are segmented."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Deque, Generator, Iterable, Iterator


def read_ahead(dataset: Any, indices: Iterable[int], depth: int = 3) -> Generator[Any, None, None]:
    """Items of ``dataset`` in the order of ``indices``, at most ``depth`` of them read in advance.

    An error of the data set comes out where its item would have. Close the generator when
    leaving early: that drops what is waiting to be read.
    """
    waiting: Deque[Future] = deque()
    with ThreadPoolExecutor(max_workers=1) as reader:
        try:
            for index in indices:
                waiting.append(reader.submit(dataset.__getitem__, index))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def iterate_ahead(items: Iterator[Any], depth: int = 3) -> Generator[Any, None, None]:
    """The same for an iterator: its items, at most ``depth`` of them read in advance."""
    end = object()
    waiting: Deque[Future] = deque()
    with ThreadPoolExecutor(max_workers=1) as reader:
        try:
            while True:
                while len(waiting) <= depth:
                    waiting.append(reader.submit(next, items, end))
                item = waiting.popleft().result()
                if item is end:
                    return
                yield item
        finally:
            for future in waiting:
                future.cancel()
