"""What the manifest of token shards says about how they were made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from momentum_gpt.data.shards import ShardsManifest


@dataclass
class SourceMix:
    """What a source of a mix contributes to the training data."""

    source: str
    weight: float | None
    tokens: int
    """Tokens of its training documents."""
    tokens_taken: int
    """Tokens in the shards, where documents may be repeated or left out."""
    epochs: float
    """tokens_taken / tokens."""


@dataclass
class FilterCount:
    """What one of datatrove's filters did for one reason."""

    filter: str
    reason: str
    """datatrove's name of the reason, or "text changed" where the document was kept."""
    documents: int
    """Number of documents."""
    bytes: int
    """UTF-8 bytes of text that were left out; below 0 if the changed text is longer."""


@dataclass
class NearDuplicates:
    """What was left out as nearly equal to another document."""

    documents: int
    bytes: int
    """UTF-8 bytes of these documents."""


@dataclass
class SetContamination:
    """What was found of an evaluation set."""

    texts: int
    """Number of its texts that were looked for."""
    documents: int
    """Number of training documents that hold some of them."""
    example: str | None
    """The beginning of such a document."""
    items: int = 0
    """Number of its items."""
    too_short: int = 0
    """Number of its items that were not looked for: they have too few words."""


@dataclass
class Contamination:
    """What was found of all evaluation sets."""

    documents: int
    """Number of training documents that hold text of some set."""
    by_set: dict[str, SetContamination]


@dataclass
class Provenance:
    """How token shards were made: `ShardsManifest.preparation`, with types."""

    bytes: dict[str, int] = field(default_factory=dict)
    """UTF-8 bytes of the documents of each split."""
    by_byte: int = 0
    """Number of tokens that are single bytes, for lack of a piece."""
    mix: list[SourceMix] = field(default_factory=list)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    """Number of documents that were left out or cut, by source and reason.

    The byte-order marks and newlines that were changed are counted here, too.
    """
    curation: list[FilterCount] = field(default_factory=list)
    """What each filter did, in the order in which they were applied."""
    language_model_sha256: str | None = None
    """Hash of the file that languages were told by; None if they were not."""
    duplicates: int | None = None
    """Number of documents that were left out as equal to another; None if none was looked for."""
    near_duplicates: NearDuplicates | None = None
    """None if none was looked for."""
    contamination: Contamination | None = None
    """None if no evaluation set was named."""
    made_with: dict[str, Any] = field(default_factory=dict)
    """The options of the preparation."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that the result depends on."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    """The parts that were read, with their hashes."""
    document_tokens: dict[str, int] = field(default_factory=dict)
    """Number of documents with up to 1, 2, 4, ... tokens."""

    def to_dict(self) -> dict[str, Any]:
        """Return the facts for `ShardsManifest.preparation`."""
        return asdict(self)


def provenance_of(manifest: ShardsManifest) -> Provenance:
    """Return how the shards were made.

    Facts that the manifest lacks, or that this version does not know, are left out.
    """
    given = manifest.preparation
    names = {entry.name for entry in fields(Provenance)}
    known = {name: value for name, value in given.items() if name in names}

    known["mix"] = [SourceMix(**source) for source in given.get("mix", [])]
    known["curation"] = [FilterCount(**count) for count in given.get("curation", [])]
    if given.get("near_duplicates") is not None:
        known["near_duplicates"] = NearDuplicates(**given["near_duplicates"])
    found = given.get("contamination")
    if found is not None:
        by_set = {name: SetContamination(**each) for name, each in found["by_set"].items()}
        known["contamination"] = Contamination(found["documents"], by_set)
    return Provenance(**known)
