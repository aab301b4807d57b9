"""Independent input sets: enough of them that the cache has forgotten a set before it is used again."""

import copy
import math
import types

from benchlib.torch_or_none import torch

# A set that is not in the cache any more: this many times the cache's size was touched since.
EVICTION = 3
# More sets would take longer to make than to measure; what they leave untouched is read by an extra kernel.
MOST_SETS = 64
# Sets whose values are drawn; the others are copies of these in memory of their own.
DRAWN_SETS = 4
MEMORY_SHARE = 0.6


def tensors(value, seen=None):
    """Every tensor in nested dicts, lists, tuples and objects, each once."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if torch is not None and isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item, seen)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item, seen)
    elif hasattr(value, "__dict__") and not callable(value) and not isinstance(value, types.ModuleType):
        yield from tensors(vars(value), seen)


def _storages(x):
    """{identity: bytes} of the memory behind a set."""
    storages = (tensor.untyped_storage() for tensor in tensors(x))
    return {storage._cdata: storage.nbytes() for storage in storages}  # data_ptr() is 0 for all of them on meta


def allocated_bytes(x):
    """Bytes of memory behind a set; tensors that share memory count once."""
    return sum(_storages(x).values())


def bytes_beside(result, x):
    """Bytes of what a call returned in memory that is not its set's: outputs that the kernel allocated itself."""
    own = _storages(x)
    return sum(nbytes for identity, nbytes in _storages(result).items() if identity not in own)


def wanted(touched, l2_bytes, set_bytes, free, repeated=0):
    """How many sets to rotate through, and how many bytes an extra kernel must read in each round.

    touched     bytes that one call moves: what it pushes out of the cache
    l2_bytes    size of the cache; 0: no cache, one set
    set_bytes   memory of one set
    free        bytes of memory for further sets, None for no limit
    repeated    those of the touched bytes that are the same memory in every call, whatever its set

    Returns (sets, evicted bytes). One set where a call alone touches three times the cache.
    """
    needed = EVICTION * l2_bytes
    if not needed or touched >= needed:
        return 1, 0
    repeated = min(repeated, touched)
    each = touched - repeated
    count = min(MOST_SETS, math.ceil((needed - repeated) / max(1, each)))
    if free is not None:
        count = min(count, 1 + int(MEMORY_SHARE * free / max(1, set_bytes)))
    return max(1, count), 0 if count * each + repeated >= needed else needed


def more_sets(first, count, draw):
    """A list of `count` sets beginning with `first`. draw(i) draws the i-th; beyond a few, they are copies.

    Copies keep strides and shared memory. A set that cannot be copied is drawn.
    """
    found = [first]
    while len(found) < count:
        if len(found) < DRAWN_SETS:
            found.append(draw(len(found)))
            continue
        try:
            found.append(copy.deepcopy(found[len(found) % DRAWN_SETS]))
        except (TypeError, NotImplementedError, RuntimeError) as error:
            if "out of memory" in str(error).lower():
                raise
            found.append(draw(len(found)))
    return found
