"""The sentences of one call that wait for a row of a batch."""

from collections.abc import Sequence

import numpy as np

from transformer_jax.decoding.padding import pad_rows

__all__ = ["Waiting"]

# Tokens by which a target may be longer than the longest source of its batch, in the first round.
SPARE = 8
# Every row of a batch pays for the places of all. So one sentence in LEFT may be left that needs
# more of them; it begins again in the next round, in which MORE times as many tokens are spare.
LEFT, MORE = 16, 4


class Waiting:
    """The sentences of a round that have not begun, the longest first, and those that are left for
    the next round.

    Attributes:
        batch_tokens: Most tokens of the sources of a batch on a device, padding included.
        spare: Tokens for which there is room in a target beyond those of the longest source.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[int]],
        limits: Sequence[int],
        sample_ids: np.ndarray,
        batch_tokens: int,
    ):
        """Let sentences wait.

        Args:
            sources: Token ids of each source.
            limits: Most tokens of each target.
            sample_ids: [n, 2].
            batch_tokens: Most tokens of the sources of a batch on a device.
        """
        self.batch_tokens = batch_tokens
        self._sources, self._limits, self._sample_ids = sources, limits, sample_ids
        self.spare = SPARE
        self._order = list(range(len(sources)))
        self._begin()

    def _begin(self) -> None:
        self._order.sort(key=lambda i: -len(self._sources[i]))
        self._begun = 0
        self._left: list[int] = []

    def next_round(self) -> None:
        """Let those wait that were left, with more room."""
        self._order = self._left
        self.spare *= MORE
        self._begin()

    def __len__(self) -> int:
        return len(self._order) - self._begun

    def longest(self) -> int:
        """Tokens of the next source; 0 where none is left."""
        return len(self._sources[self._order[self._begun]]) if self else 0

    def enter(self, held: np.ndarray, free: np.ndarray, width: int):
        """Give the next sentences free rows.

        Args:
            held: The sentence of each row, [devices, rows], which is changed.
            free: Rows that are free, [devices, n], -1 none; those left over become -1.
            width: Tokens of a source, padding included; that of the longest at least.

        Returns:
            source [devices * n, width], limits and sample_ids of these rows.
        """
        devices, count = free.shape
        entering: list[int | None] = [None] * free.size
        # Devices take turns, so that all have as many sentences of a length.
        for column, device in np.ndindex(count, devices):
            if self and free[device, column] >= 0:
                i = self._order[self._begun]
                self._begun += 1
                held[device, free[device, column]] = i
                entering[device * count + column] = i
            else:
                free[device, column] = -1
        source = pad_rows(
            [[] if i is None else self._sources[i] for i in entering], free.size, width
        )
        limits = np.array([0 if i is None else self._limits[i] for i in entering], np.int32)
        sample_ids = np.array(
            [(0, 0) if i is None else self._sample_ids[i] for i in entering], np.int32
        )
        return source, limits, sample_ids

    def may_leave(self, needed: np.ndarray, places: int, soon: bool = False) -> bool:
        """Whether the sentences that need more than `places` places may be left.

        They may if they are few, and if others go on, for whom places that they do not need would
        cost time.

        Args:
            needed: Places that each needs, 0 for none.
            places: For which there is room.
            soon: Ask of those that will, with the spare tokens, too.
        """
        leaving = int(((needed + self.spare * soon) > places).sum())
        goes_on = bool(self) or leaving < (needed > 0).sum()
        return leaving == 0 or (goes_on and leaving <= self._begun // LEFT - len(self._left))

    def leave(self, held: np.ndarray, needed: np.ndarray, places: int):
        """Leave the sentences that need more than `places` places, if they may be left.

        Args:
            held: The sentence of each row, [devices, rows], -1 none.
            needed: Places that each of them needs, 0 for none.
            places: For which there is room.

        Returns:
            held and needed without those that are left.
        """
        leaving = (needed > places) & self.may_leave(needed, places)
        self._left += held[leaving].tolist()
        return np.where(leaving, -1, held), np.where(leaving, 0, needed)
