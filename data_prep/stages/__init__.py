"""The stages of a preparation, one file each; `data_prep.prepare` runs them in order."""

from data_prep.stages.curate import Curate
from data_prep.stages.decontaminate import Decontaminate
from data_prep.stages.deduplicate import Deduplicate
from data_prep.stages.documents import ReadDocuments
from data_prep.stages.make_tokenizer import MakeTokenizer
from data_prep.stages.near_deduplicate import NearDeduplicate
from data_prep.stages.stage import Stage, Work
from data_prep.stages.tokenize import Tokenize
from data_prep.stages.verify import Verify
from data_prep.stages.write_shards import Write

__all__ = [
    "Curate",
    "Decontaminate",
    "Deduplicate",
    "MakeTokenizer",
    "NearDeduplicate",
    "ReadDocuments",
    "Stage",
    "Tokenize",
    "Verify",
    "Work",
    "Write",
]
