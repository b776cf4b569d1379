# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Packing: exact tokens, positions, the cache, interruptions, and streams that shards, ranks and resumed runs read."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, Trainer, TrainingArguments

from hf_thoughtbubbles import (
    GenericTransformerConfig,
    GenericTransformerForCausalLM,
    build_byte_tokenizer,
    train_bpe_tokenizer,
)
from hf_thoughtbubbles.data import packing
from hf_thoughtbubbles.data import text as text_module
from hf_thoughtbubbles.data.collation import collate_blocks
from hf_thoughtbubbles.data.text import load_text, pack_blocks
from tests.examples.scripts import run_script


SHARDS = 6


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A cache of this test alone; parts and batches of a few documents."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(packing, "PART_BYTES", 300)
    monkeypatch.setattr(packing, "BATCH_BYTES", 90)
    monkeypatch.setattr(packing, "ROWS_PER_READ", 3)
    monkeypatch.setattr(packing, "DOCUMENTS_PER_BATCH", 3)
    return tmp_path / "cache" / "packed_blocks"


def draw_documents(num_documents: int, seed: int = 0) -> list[str]:
    """Random text, some of it empty or longer than a block."""
    source = random.Random(seed)
    return ["".join(source.choices("ab é☃\n", k=source.choice([0, 1, 5, 40]))) for _ in range(num_documents)]


def join(documents: list[str], tokenizer) -> tuple[list[int], list[int]]:
    """Tokens of each document in turn, with the end of sequence, and the position of each in its document."""
    ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in documents]
    return list(itertools.chain(*ids)), [position for one in ids for position in range(len(one))]


def cut(values: list[int], block_size: int) -> list[list[int]]:
    return [values[i : i + block_size] for i in range(0, len(values) - block_size + 1, block_size)]


@pytest.mark.parametrize("kind", ["bytes", "words", "special"])
@pytest.mark.parametrize("block_size", [2, 7, 31])
def test_blocks_are_the_tokens_of_each_document_in_turn(kind, block_size, cache):
    documents = [*draw_documents(60), "<|eos|>", "", ""]
    tokenizer = build_byte_tokenizer()
    if kind == "words":
        tokenizer = train_bpe_tokenizer(documents, vocab_size=270)
    elif kind == "special":
        tokenizer.split_special_tokens = False
    ids, positions = join(documents, tokenizer)
    rows = Dataset.from_dict({"text": documents})
    for dataset in (rows, rows.to_iterable_dataset(num_shards=SHARDS)):
        blocks = list(pack_blocks(dataset, tokenizer, block_size, position_ids=True))
        assert [block["input_ids"] for block in blocks] == cut(ids, block_size)
        for block, counted in zip(blocks, cut(positions, block_size), strict=True):
            first = next((i for i, position in enumerate(counted) if position == 0), block_size)
            assert block["position_ids"] == [*range(first), *counted[first:]]
    assert len(list(cache.glob("*.arrow"))) > 2, "several parts, each of which continues the one before"


def test_batches_of_blocks_have_labels_and_the_types_that_models_read(cache):
    rows = Dataset.from_dict({"text": draw_documents(60)})
    blocks = pack_blocks(rows, build_byte_tokenizer(), 7, position_ids=True)
    assert blocks.features["input_ids"].feature.dtype == "uint16"
    for view in (blocks, blocks.with_format("torch")):
        batch = collate_blocks([view[0], view[1]])
        assert {name: (value.dtype, *value.shape) for name, value in batch.items()} == dict.fromkeys(
            ("input_ids", "position_ids", "labels"), (torch.int64, 2, 7)
        )
        assert batch["labels"].equal(batch["input_ids"])


def test_equal_documents_and_arguments_are_packed_once(cache, tmp_path, monkeypatch):
    documents, tokenizer = draw_documents(60), build_byte_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    os.utime(tmp_path / "b" / "rows.jsonl", (1, 1))

    def pack(name: str, block_size: int = 7) -> Dataset:
        rows = Dataset.from_list(list(map(json.loads, (tmp_path / name / "rows.jsonl").read_text().splitlines())))
        return pack_blocks(rows, AutoTokenizer.from_pretrained(tmp_path / "tokenizer"), block_size)

    first = pack("a")
    monkeypatch.setattr(packing._Packer, "read_tokens", None)  # nothing can be packed
    again = pack("b")
    assert again[:] == first[:] and again._fingerprint == first._fingerprint
    with pytest.raises(TypeError):
        pack("b", block_size=8)


KILLED = """
import os, sys, datasets
from hf_thoughtbubbles import build_byte_tokenizer
from hf_thoughtbubbles.data import packing
datasets.config.HF_DATASETS_CACHE, packing.PART_BYTES, packing.BATCH_BYTES = sys.argv[1], 300, 90
packing.ROWS_PER_READ = 3
cut, calls = packing._Packer._cut, []
def cut_and_die(*args):
    calls.append(args)
    if len(calls) == 12:
        os.kill(os.getpid(), 9)
    return cut(*args)
packing._Packer._cut = cut_and_die
packing.pack_blocks(datasets.Dataset.from_dict({"text": eval(sys.argv[2])}), build_byte_tokenizer(), 7)
"""


def test_a_killed_packing_continues_after_its_last_complete_part(cache, monkeypatch):
    documents = draw_documents(60)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(cache.parent), repr(documents)], check=False)
    assert killed.returncode == -signal.SIGKILL
    complete = {path.name for path in cache.glob("*.arrow")}
    assert complete
    packed, read_tokens = [], packing._Packer.read_tokens

    def count(self, table):
        packed.extend(table["text"].to_pylist())
        return read_tokens(self, table)

    monkeypatch.setattr(packing._Packer, "read_tokens", count)
    blocks = pack_blocks(Dataset.from_dict({"text": documents}), build_byte_tokenizer(), 7)
    assert blocks["input_ids"][:] == cut(join(documents, build_byte_tokenizer())[0], 7)
    assert 0 < len(packed) < len(documents) and complete < {path.name for path in cache.glob("*.arrow")}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["bytes", "words"])
def test_pieces_of_a_long_document_have_the_tokens_of_the_whole(kind, streaming, cache, monkeypatch, tmp_path):
    text = ("def f(x):\r\n\n    return 'é☃' + x  # 中文。没有\t<|eos|>\n" * 9 + "no_boundary" * 30) * 3
    tokenizer = build_byte_tokenizer() if kind == "bytes" else train_bpe_tokenizer([text], vocab_size=300)
    monkeypatch.setattr(packing, "PIECE_CHARACTERS", 50)
    monkeypatch.setattr(packing, "GROUP_CHARACTERS", 120)
    monkeypatch.setattr(text_module, "ROW_BYTES", 300)
    packer = packing._Packer(tokenizer, 7, False)
    assert sum(len(group) for group in packer._group_pieces([{"text": text}])) > 15
    (tmp_path / "book.txt").write_bytes(text.encode())
    documents = load_text(tmp_path / "book.txt", validation_share=0.3, streaming=streaming)
    rows = list(documents["train"])
    assert len(rows) > 3, "the file takes several rows"
    whole = "".join(row["text"] for row in rows)
    assert whole + "".join(row["text"] for row in documents["validation"]) == text
    ids, _ = join([whole], tokenizer)
    one_row = Dataset.from_dict({"text": [whole]})
    for dataset in (documents["train"], one_row.to_iterable_dataset() if streaming else one_row):
        blocks = list(pack_blocks(dataset, tokenizer, 7, position_ids=True))
        assert [block["input_ids"] for block in blocks] == cut(ids, 7)
        assert all(block["position_ids"] == list(range(7)) for block in blocks), "it is one document"


def test_documents_that_a_tokenizer_reads_whole_are_not_cut(monkeypatch):
    tokenizer = train_bpe_tokenizer(["a b a b"], vocab_size=262)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    monkeypatch.setattr(packing, "PIECE_CHARACTERS", 50)
    packer = packing._Packer(tokenizer, 7, False)
    assert list(packer._group_pieces([{"text": "a b " * 99}])) == [[("a b " * 99, True)]]
    with pytest.raises(ValueError, match="No place near 'a b a b' or 'a b a b'"):
        list(packer._group_pieces([{"text": "a b a b", "text_before": "", "text_after": "a b"}]))


def generate(shards: list[list[str]]):
    """A module's function, so that workers can load it."""
    for shard in shards:
        for text in shard:
            yield {"text": text}


def make_stream(documents: list[str], kind: str, num_shards: int = SHARDS) -> IterableDataset:
    if kind == "table":
        return Dataset.from_dict({"text": documents}).to_iterable_dataset(num_shards=num_shards)
    shards = [documents[i::num_shards] for i in range(num_shards)]
    return IterableDataset.from_generator(generate, gen_kwargs={"shards": shards})


@pytest.mark.parametrize("kind", ["table", "generator"])
@pytest.mark.parametrize("is_shuffled", [False, True])
def test_a_stream_resumed_at_any_block_gives_the_blocks_that_were_left(kind, is_shuffled, cache):
    def make() -> IterableDataset:
        stream = make_stream(draw_documents(14), kind)
        return pack_blocks(stream.shuffle(seed=3, buffer_size=1) if is_shuffled else stream, tokenizer, 13)

    tokenizer = build_byte_tokenizer()
    expected = [block["input_ids"] for block in make()]
    for num_read in range(1, len(expected)):
        stream = make()
        assert [block["input_ids"] for block in itertools.islice(stream, num_read)] == expected[:num_read]
        resumed = make()
        resumed.load_state_dict(json.loads(json.dumps(stream.state_dict())))
        assert [block["input_ids"] for block in resumed] == expected[num_read:]


@pytest.mark.parametrize("num_shards", [1, SHARDS])
def test_ranks_read_all_blocks_once(num_shards, cache):
    """With a shard for each rank, both pack their own documents; without, they take turns in the blocks."""
    documents, tokenizer = draw_documents(60), build_byte_tokenizer()
    stream, num_tokens = make_stream(documents, "table", num_shards), len(join(documents, tokenizer)[0])
    for given in (stream, pack_blocks(stream, tokenizer, 13)):
        if given is stream and num_shards == 1:
            continue
        ranks = [split_dataset_by_node(given, rank=rank, world_size=2) for rank in (0, 1)]
        if given is stream:
            ranks = [pack_blocks(rank, tokenizer, 13) for rank in ranks]
        read = [[block["input_ids"] for block in rank] for rank in ranks]
        if num_shards == 1:
            expected = cut(join(documents, tokenizer)[0], 13)
            assert read == [expected[::2], expected[1::2]]
        else:
            shards = [[row["text"] for row in stream.shard(SHARDS, i)] for i in range(SHARDS)]
            for rank, blocks in enumerate(read):
                own = itertools.chain(*shards[rank::2])
                assert blocks == cut(join(list(own), tokenizer)[0], 13)
            assert num_tokens - 13 * sum(map(len, read)) < 2 * 13


def test_shuffling_documents_of_a_stream_before_they_are_packed_loses_no_token(cache):
    """Blocks that are shuffled afterwards come from several shards at a time, each with an end of its own."""
    stream, tokenizer = make_stream(draw_documents(60), "table"), build_byte_tokenizer()
    plain = pack_blocks(stream, tokenizer, 13)
    assert plain.num_shards == SHARDS
    before, after = pack_blocks(stream.shuffle(seed=1), tokenizer, 13), plain.shuffle(seed=1)
    read = [[block["input_ids"] for block in blocks] for blocks in (plain, before, after)]
    assert read[0] != read[1] and len(read[0]) == len(read[1]) and read[0] != read[2]
    assert 0 <= len(read[0]) - len(read[2]) < SHARDS


class Recorder(Trainer):
    """Keeps the rows of each step; stops, as if killed, within a step."""

    stops_at = None

    def training_step(self, model, inputs, *args, **kwargs):
        self.seen = [*getattr(self, "seen", []), inputs["input_ids"].tolist()]
        if len(self.seen) == self.stops_at:
            raise KeyboardInterrupt
        return super().training_step(model, inputs, *args, **kwargs)


def test_a_training_on_a_packed_stream_resumes_in_the_middle_of_an_epoch(cache, tmp_path):
    tokenizer = build_byte_tokenizer()

    def make_trainer(folder: str) -> Recorder:
        torch.manual_seed(0)
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 13}
        return Recorder(
            model=GenericTransformerForCausalLM(GenericTransformerConfig(vocab_size=259, **sizes)),
            args=TrainingArguments(
                output_dir=str(tmp_path / folder),
                max_steps=26,
                per_device_train_batch_size=3,
                save_strategy="steps",
                save_steps=5,
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=pack_blocks(make_stream(draw_documents(40), "table"), tokenizer, 13, position_ids=True),
            data_collator=collate_blocks,
        )

    whole, killed, resumed = make_trainer("whole"), make_trainer("parts"), make_trainer("parts")
    whole.train()
    assert len({str(rows) for rows in whole.seen}) == len(whole.seen), "no batch comes twice, in other epochs neither"
    killed.stops_at = 18
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    assert killed.seen == whole.seen[:18]
    resumed.train(resume_from_checkpoint=True)
    assert resumed.seen == whole.seen[15:]
    for name, value in resumed.model.state_dict().items():
        assert value.equal(whole.model.state_dict()[name]), name


@pytest.mark.slow
def test_the_benchmark_counts_lost_tokens_and_measures_memory(tmp_path):
    script = Path(__file__).parents[2] / "benchmarks" / "packing.py"
    result = run_script(script, "--quick", "--repeats", 1, "--folder", tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    tables = [line.split(" | ") for line in result.stdout.splitlines() if line.startswith("| 1000 B")]
    lost = {row[1]: float(row[-1].strip(" |%")) for row in tables[:7] if "%" in row[-1]}
    assert lost["`pack_blocks`"] < 0.1 < lost["TRL, bfd"]
    assert len([line for line in result.stdout.splitlines() if line.startswith(("| text.txt", "| rows.jsonl"))]) == 2
