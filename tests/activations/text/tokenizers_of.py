"""Fast tokenizers whose spans leave out characters, or share them, each in another way."""

from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

KINDS = (
    "trimming", "trimming with prefix space", "trimming and nfkc", "dropping", "stripping",
    "metaspace", "byte fallback", "unigram", "wordpiece",
)  # fmt: skip
SPECIAL = ["<s>", "</s>", "<unk>"]


def make_tokenizer(kind: str, texts: Iterable[str]) -> Any:
    """Return a fast tokenizer of a kind, trained on the texts."""
    made, trainer = _made(kind)
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def _made(kind: str) -> tuple[Tokenizer, Any]:
    options: dict[str, Any] = {"special_tokens": SPECIAL, "show_progress": False, "vocab_size": 360}
    match kind:
        case "unigram":
            made = Tokenizer(models.Unigram())
            made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
            made.pre_tokenizer = pre_tokenizers.Metaspace()
            return made, trainers.UnigramTrainer(unk_token="<unk>", **options)
        case "wordpiece":
            made = Tokenizer(models.WordPiece(unk_token="<unk>"))
            made.normalizer = normalizers.BertNormalizer()
            made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            return made, trainers.WordPieceTrainer(**options)
        case "metaspace":
            made = Tokenizer(models.BPE(unk_token="<unk>"))
            made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
            return made, trainers.BpeTrainer(**options)
        case "byte fallback":
            made = Tokenizer(models.BPE(byte_fallback=True))
            made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
            bytes_of = [f"<0x{byte:02X}>" for byte in range(256)]
            return made, trainers.BpeTrainer(**options | {"special_tokens": SPECIAL + bytes_of, "vocab_size": 500})
    made = Tokenizer(models.BPE())
    normalizer: Any = {
        "trimming and nfkc": normalizers.NFKC(),
        "dropping": normalizers.Replace(Regex("[\u200b.,a]"), ""),
        "stripping": normalizers.Strip(),
    }.get(kind)
    if normalizer is not None:
        made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space="prefix" in kind)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=kind.startswith("trimming"))
    return made, trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
