"""Limiters and leases are single: a copy would be a second quota."""

from __future__ import annotations

from typing import NoReturn, Self

__all__ = ["Single"]


class Single:
    """A copy is the same object, and pickling is refused."""

    __slots__ = ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled: in another process it would be a "
            "second quota"
        )
