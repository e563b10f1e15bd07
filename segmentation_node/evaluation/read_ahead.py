"""Read samples on a thread while the ones before them are segmented."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Deque, Generator, Iterable

from segmentation_node.evaluation.datasets import Dataset, Sample


def read_ahead(
    dataset: Dataset, indices: Iterable[int], depth: int = 3
) -> Generator[Sample, None, None]:
    """Samples in the order of ``indices``, at most ``depth`` of them read in advance.

    An error of the data set comes out where its sample would have. Close the generator when
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
