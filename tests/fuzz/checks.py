# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What is checked of a drawn subject. Each check draws its inputs, computes the right value itself, and compares.

All comparisons are in float64. The losses of transformers are computed in float32, and are compared as such.
"""

import itertools
import tempfile
import warnings

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch.nn.functional import log_softmax
from transformers import AutoConfig

import hf_thoughtbubbles as package
from tests.fuzz.comparing import FLOAT32, SEEDS, compare, draw_cuts, must_refuse, read_by_ends
from tests.fuzz.generation_checks import check_beams, check_generation, check_generation_fields
from tests.fuzz.subjects import (
    CONFIGS,
    FAMILIES,
    HEADS,
    TEXT_FAMILIES,
    Inputs,
    Subject,
    make_cache,
    pad,
    read,
    stack_patches,
    subjects,
    take_row,
)


@torch.no_grad()
def check_cache(subject: Subject, draw):
    """Reading a text in parts, with any kind of cache, gives the logits of one call without a cache."""
    model, inputs = subject.build(), Inputs(subject, draw(SEEDS))
    num_rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 13))
    is_static = subject.is_text and subject.family != "byte_patch"
    kind = draw(st.sampled_from(["own", "dynamic", "static"] if is_static else ["own", "dynamic"]))
    cuts, is_padded = draw_cuts(draw, length), draw(st.booleans())
    ids, mask = inputs.draw_ids(num_rows, length), None
    if is_padded:
        mask = torch.ones_like(ids)
        for row in range(num_rows):
            mask[row, : draw(st.integers(0, length - 1))] = 0
    context = inputs.draw_context(num_rows, draw(st.sampled_from([None, "left", "right"])))
    if not subject.is_text and draw(st.booleans()):
        context = {"encoder_outputs": model.get_encoder()(**context)}
    part_lengths = [int(mask[row, : cuts[1]].sum()) if is_padded else cuts[1] for row in range(num_rows)]
    assume(not subject.is_token_patched or min(part_lengths) > 0)
    first = inputs.measure(part_lengths)

    cache, logits = make_cache(kind, subject, model, length + draw(st.integers(0, 3))), []
    for start, end in itertools.pairwise(cuts):
        part_mask = None if mask is None else mask[:, :end]
        own = first if start == 0 else {}
        out = read(
            model, subject, ids[:, start:end], part_mask, {**context, **own}, past_key_values=cache, use_cache=True
        )
        cache = out.past_key_values
        logits.append(out.logits)
    if subject.is_token_patched:  # the patches of later bytes are words, whose ends the cache stores
        expected = read_by_ends(model, ids, mask, cache.is_end)
    else:
        expected = read(model, subject, ids, mask, context, use_cache=False).logits
    is_real = torch.ones_like(ids).bool() if mask is None else mask.bool()
    compare("logits in parts", torch.cat(logits, dim=1)[is_real], expected[is_real])


@torch.no_grad()
def check_padding(subject: Subject, draw):
    """A row of a padded batch gives what the row gives alone."""
    model, inputs, side = subject.build(), Inputs(subject, draw(SEEDS)), draw(st.sampled_from(["left", "right"]))
    lengths = draw(st.lists(st.integers(1, 13), min_size=2, max_size=4))
    if subject.is_text:
        rows, parts = [inputs.draw_row(length) for length in lengths], [inputs.measure([n]) for n in lengths]
        batch = pad(rows, subject.settings["pad_token_id"], side)
        if subject.is_token_patched:
            batch |= stack_patches([part["patch_lengths"][0].tolist() for part in parts])
        out = model(**batch)
        for row, ids in enumerate(rows):
            alone = model(input_ids=torch.tensor([ids]), **parts[row])
            if "SequenceClassification" in subject.class_name:
                compare(f"row {row}", out.logits[row], alone.logits[0])
                continue
            is_real = batch["attention_mask"][row].bool()
            for name in ("logits",) if "Question" not in subject.class_name else ("start_logits", "end_logits"):
                compare(f"{name} of row {row}", out[name][row][is_real], alone[name][0])
        return
    context = inputs.draw_context(len(lengths), side)
    ids = inputs.draw_ids(len(lengths), draw(st.integers(1, 13)))
    together = read(model, subject, ids, None, context, use_cache=False).logits
    for row in range(len(lengths)):
        alone = take_row(context, row)
        alone["input_ids"] = alone["input_ids"][alone.pop("attention_mask").bool()][None]
        logits = read(model, subject, ids[row : row + 1], None, alone, use_cache=False).logits
        compare(f"row {row}", together[row : row + 1], logits)


@torch.no_grad()
def check_packing(subject: Subject, draw):
    """Documents packed into one row give what each gives alone; a mask of ones changes nothing."""
    model, inputs = subject.build(), Inputs(subject, draw(SEEDS))
    lengths = draw(st.lists(st.integers(1, 7), min_size=2, max_size=3))
    ids = inputs.draw_ids(1, sum(lengths))
    positions = torch.tensor([[position for length in lengths for position in range(length)]])
    parts = [inputs.measure([length]) for length in lengths]
    packed = {"input_ids": ids, "position_ids": positions, "use_cache": False}
    if subject.is_token_patched:
        packed |= stack_patches([[n for part in parts for n in part["patch_lengths"][0].tolist()]])
    if draw(st.booleans()):
        packed["attention_mask"] = torch.ones_like(ids).to(draw(st.sampled_from([torch.long, torch.bool])))
    if subject.is_published_rule:
        must_refuse("position_ids", model, **packed)
        return
    documents = torch.split(ids, lengths, dim=1)
    alone = [model(input_ids=text, **part).logits for text, part in zip(documents, parts, strict=True)]
    compare("packed documents", model(**packed).logits, torch.cat(alone, dim=1))


@torch.no_grad()
def check_causality(subject: Subject, draw):
    """A change of later tokens changes no earlier logit."""
    model, inputs = subject.build(), Inputs(subject, draw(SEEDS))
    num_rows, length = draw(st.integers(1, 2)), draw(st.integers(2, 13))
    first = draw(st.integers(1, length - 1))
    context, ids = inputs.draw_context(num_rows), inputs.draw_ids(num_rows, length)
    context |= inputs.measure([length] * num_rows)
    changed = torch.cat((ids[:, :first], inputs.draw_ids(num_rows, length - first)), dim=1)
    before, after = (read(model, subject, text, None, context, use_cache=False).logits for text in (ids, changed))
    compare("earlier logits", after[:, :first], before[:, :first])


@torch.no_grad()
def check_saving(subject: Subject, draw):
    """A model that was saved and loaded gives the same bits, and has the same configuration."""
    model, inputs = subject.build(), Inputs(subject, draw(SEEDS))
    ids, context = inputs.draw_ids(2, 7), {**inputs.draw_context(2), **inputs.measure([7, 7])}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = type(model).from_pretrained(folder, dtype=torch.float64).eval()
        config = AutoConfig.from_pretrained(folder)
    before, after = (read(align(each), subject, ids, None, context) for each in (model, loaded))
    for name in ("logits",) if "Question" not in subject.class_name else ("start_logits", "end_logits"):
        assert torch.equal(before[name], after[name]), f"other {name} after loading"
    state, other = model.state_dict(), loaded.state_dict()
    assert state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in state)
    ignored = ("transformers_version", "_name_or_path", "architectures", "dtype", "auto_map")
    old, new = (make_plain(each.to_dict(), ignored) for each in (model.config, config))
    assert old == new, f"{old} became {new}"


def align(model):
    """The model with its weights in memory of their own: products round by how matrices are aligned."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def make_plain(value, ignored=()):
    """Settings in one order, with lists for tuples and text for keys, as JSON has them."""
    if isinstance(value, dict):
        return {str(key): make_plain(part) for key, part in sorted(value.items()) if key not in ignored}
    return [make_plain(part) for part in value] if isinstance(value, list | tuple) else value


def draw_lesson(subject: Subject, inputs: Inputs, draw, num_rows: int) -> dict:
    """A batch with labels, some of which are not scored."""
    length = draw(st.integers(2, 9))
    labels = inputs.draw_ids(num_rows, length)
    if subject.is_text:
        lesson = {"input_ids": labels, **inputs.measure([length] * num_rows)}
    else:
        lesson = inputs.draw_context(num_rows, draw(st.sampled_from([None, "left", "right"])))
    scored = [[draw(st.booleans()) for _ in range(length)] for _ in range(num_rows)]
    labels = labels.masked_fill(~torch.tensor(scored), -100)
    labels[0, 1] = int(inputs.draw_ids(1, 1))  # at least one target
    lesson["labels"] = labels
    if subject.settings.get("num_probes", 0) > 0 and draw(st.booleans()):
        numbers = [[[inputs.random.gauss(0, 1) for _ in range(2)] for _ in range(length)] for _ in range(num_rows)]
        lesson["probe_targets"] = torch.tensor(numbers, dtype=torch.float64)
    if subject.family == "thinker" and not subject.is_parallel and draw(st.booleans()):
        lesson["loop_decoder"] = True
    return lesson


def count_targets(subject: Subject, labels: torch.Tensor) -> int:
    return int(((labels[:, 1:] if subject.is_text else labels) != -100).sum())


def average_negative(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean negative log probability of the labels that are scored, from logits `(B, T, V)`."""
    log_probs = log_softmax(logits, dim=-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    is_scored = labels != -100
    return -(log_probs * is_scored).sum() / is_scored.sum()


def check_accumulation(subject: Subject, draw):
    """The parts of a batch, each over the targets of all, add up to its loss and gradients."""
    model, inputs, num_rows = subject.build_smooth().train(), Inputs(subject, draw(SEEDS)), draw(st.integers(2, 4))
    lesson, split = draw_lesson(subject, inputs, draw, num_rows), draw(st.integers(1, num_rows - 1))
    total = count_targets(subject, lesson["labels"])
    number = draw(st.sampled_from([total, torch.tensor(total)]))

    def learn(*parts: slice):
        model.zero_grad()
        losses = []
        for rows in parts:
            part = {key: value[rows] if torch.is_tensor(value) else value for key, value in lesson.items()}
            loss = model(**part, num_items_in_batch=number).loss
            loss.backward()
            losses.append(loss.detach().double())
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return sum(losses), grads

    together, gradients = learn(slice(0, num_rows))
    apart, other = learn(slice(0, split), slice(split, num_rows))
    compare("loss of parts", apart, together, FLOAT32)
    assert gradients.keys() == other.keys()
    for name, gradient in gradients.items():
        compare(f"gradient of {name}", other[name], gradient, FLOAT32)
    if subject.settings.get("reconstruction_loss_weight", 0) == 0:  # it is averaged over other targets
        compare("loss of the batch alone", model(**lesson).loss.detach().double(), together, FLOAT32)


@torch.no_grad()
def check_loss(subject: Subject, draw):
    """The loss is the mean negative log probability of the targets that are scored."""
    model, inputs = subject.build(), Inputs(subject, draw(SEEDS))
    lesson = draw_lesson(subject, inputs, draw, draw(st.integers(1, 3)))
    labels = lesson["labels"]
    if subject.family != "thinker":
        out = model(**lesson)
        logits, labels = (out.logits[:, :-1], labels[:, 1:]) if subject.is_text else (out.logits, labels)
        expected = average_negative(logits, labels)
        if getattr(out, "reconstruction_loss", None) is not None:
            expected = expected + model.config.reconstruction_loss_weight * out.reconstruction_loss
        if getattr(out, "draft_loss", None) is not None:
            expected = expected + model.config.draft_loss_weight * out.draft_loss
        compare("loss", out.loss.double(), expected, FLOAT32)
        return
    out = model(**lesson, output_steps=True)
    num_steps = out.step_logits.shape[1]
    assert num_steps == min(model.config.num_kept_outputs, model.config.num_steps)
    expected = sum(average_negative(out.step_logits[:, step], labels) for step in range(num_steps)) / num_steps
    if out.loop_logits is not None:
        loops = out.loop_logits.shape[1]
        expected += sum(average_negative(out.loop_logits[:, step], labels) for step in range(loops)) / loops
    if "probe_targets" in lesson:
        errors = (out.step_probes - lesson["probe_targets"][:, None]).square().mean(-1).mean(1)
        expected += errors[labels != -100].mean()
    compare("loss", out.loss.double(), expected.double(), FLOAT32)


@torch.no_grad()
def check_determinism(subject: Subject, draw):
    """Evaluation draws no random numbers and repeats every bit, also after a step of training mode."""
    model, inputs = subject.build(), Inputs(subject, draw(SEEDS))
    ids, context = inputs.draw_ids(2, 7), {**inputs.draw_context(2), **inputs.measure([7, 7])}
    name = "start_logits" if "Question" in subject.class_name else "logits"
    before = torch.get_rng_state()
    first = read(model, subject, ids, None, context)[name]
    assert torch.equal(before, torch.get_rng_state()), "evaluation drew random numbers"
    model.train()
    read(model, subject, ids, None, context, **({} if subject.is_head else {"use_cache": False}))
    model.eval()
    assert torch.equal(first, read(model, subject, ids, None, context)[name]), "another result"


def check_gradients(subject: Subject, draw):
    """Gradients agree with finite differences in a random direction."""
    model, inputs = subject.build_smooth(), Inputs(subject, draw(SEEDS))
    if subject.settings.get("fork_rule") != "threshold" and draw(st.booleans()):
        model.train()  # where thresholds move with every change of the weights
    ids, context = inputs.draw_ids(2, 6), {**inputs.draw_context(2), **inputs.measure([6, 6])}
    options = {} if subject.is_head else {"use_cache": False}
    name = "start_logits" if "Question" in subject.class_name else "logits"
    generator = torch.Generator().manual_seed(subject.seed)
    weights = None

    def evaluate() -> torch.Tensor:
        nonlocal weights
        values = read(model, subject, ids, None, context, **options)[name]
        if weights is None:
            weights = torch.randn(values.shape, generator=generator, dtype=torch.float64) / values.numel() ** 0.5
        return (values * weights).sum()

    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(evaluate(), parameters, allow_unused=True)
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True) if g is not None)
    # Fork scores and mixed distributions are computed in float32, whose rounding a small step would magnify.
    is_rounded = subject.family == "thoughtbubbles" and subject.settings["fork_layers"] != []
    estimates, bends, step, middle = [], [], 1e-3 if is_rounded else 1e-5, float(evaluate().detach())
    for size in (step, step / 4):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, d in zip(parameters, directions, strict=True):
                    p.add_(sign * size * d)
                with torch.enable_grad():  # as the choice of forks in training depends on it
                    values.append(float(evaluate().detach()))
                for p, d in zip(parameters, directions, strict=True):
                    p.sub_(sign * size * d)
        estimates.append((values[0] - values[1]) / (2 * size))
        bends.append(abs(values[0] - 2 * middle + values[1]) / size)
    # A kink, as of ReLU, or another choice of forks within a step shows in slopes that disagree.
    scale = max(1.0, abs(slope))
    assume(abs(estimates[0] - estimates[1]) < 1e-3 * scale and bends[1] < max(0.5 * bends[0], 1e-3 * scale))
    assert abs(slope - estimates[1]) < 3e-3 * scale, f"gradient {slope}, finite differences {estimates}"


@torch.no_grad()
def check_last_logits(subject: Subject, draw):
    """`logits_to_keep` computes the same logits, of fewer tokens."""
    model, inputs, length = subject.build(), Inputs(subject, draw(SEEDS)), draw(st.integers(1, 9))
    ids, context = inputs.draw_ids(2, length), {**inputs.draw_context(2), **inputs.measure([length, length])}
    every = read(model, subject, ids, None, context).logits
    number = draw(st.integers(1, length))
    compare("the last", read(model, subject, ids, None, context, logits_to_keep=number).logits, every[:, -number:])
    listed = torch.tensor(draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=4)))
    compare("listed", read(model, subject, ids, None, context, logits_to_keep=listed).logits, every[:, listed])


@torch.no_grad()
def check_vectors(subject: Subject, draw):
    """The embeddings of ids, passed in their place, give the same logits and the same generated text."""
    model, inputs, num_rows = subject.build(), Inputs(subject, draw(SEEDS)), draw(st.integers(1, 2))
    ids, context = inputs.draw_ids(num_rows, draw(st.integers(1, 9))), inputs.draw_context(num_rows)
    expected = read(model, subject, ids, None, context, use_cache=False).logits
    embed = model.get_input_embeddings()
    if subject.is_text:
        compare("logits of vectors", model(inputs_embeds=embed(ids), use_cache=False).logits, expected)
        new = model.generate(inputs_embeds=embed(ids), max_new_tokens=3, do_sample=False)
        whole = model.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
        assert new.tolist() == whole[:, ids.shape[1] :].tolist(), "another text from vectors"
        return
    vectors = dict(context)
    vectors["inputs_embeds"] = embed(vectors.pop("input_ids"))
    compare("logits of vectors", read(model, subject, ids, None, vectors, use_cache=False).logits, expected)
    if not subject.is_parallel:
        out = model(**vectors, decoder_inputs_embeds=embed(ids), use_cache=False)
        compare("logits of decoder vectors", out.logits, expected)


@torch.no_grad()
def check_attention(subject: Subject, draw):
    """Eager and fused attention agree in float32, with padding and without."""
    model, inputs, num_rows = subject.build().float(), Inputs(subject, draw(SEEDS)), draw(st.integers(1, 3))
    length, mask = draw(st.integers(1, 9)), None
    ids = inputs.draw_ids(num_rows, length)
    context = {**inputs.draw_context(num_rows, draw(st.sampled_from([None, "left"])))}
    if draw(st.booleans()) and subject.is_text:
        mask = torch.ones_like(ids)
        mask[0, : draw(st.integers(0, length - 1))] = 0
    context |= inputs.measure([length] * num_rows if mask is None else mask.sum(1).tolist())
    fused = read(model, subject, ids, mask, context, use_cache=False).logits
    model.set_attn_implementation("eager")
    eager = read(model, subject, ids, mask, context, use_cache=False).logits
    is_real = torch.ones(fused.shape[:2]).bool() if mask is None else mask.bool()
    distance = float((fused - eager)[is_real].abs().max())
    if subject.family == "thoughtbubbles" or subject.settings.get("exit_threshold") is not None:
        # A choice between nearly equal scores may fall the other way.
        assume(distance < 1e-4 or subject.settings.get("fork_layers") == [])
    scale = max(1.0, float(fused.abs().max()))
    assert distance < 1e-4 * scale, f"eager and sdpa are {distance:.3g} apart, of values up to {scale:.3g}"


def check_replay(subject: Subject, draw):
    """Gradient checkpointing changes no gradient."""
    model, inputs = subject.build_smooth().train(), Inputs(subject, draw(SEEDS))
    lesson, results = draw_lesson(subject, inputs, draw, 2), []
    for is_replayed in (False, True):
        if is_replayed:
            with warnings.catch_warnings():  # transformers is renaming this method
                warnings.simplefilter("ignore", FutureWarning)
                model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        model(**lesson).loss.backward()
        results.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert results[0].keys() == results[1].keys()
    for name, gradient in results[0].items():
        compare(f"gradient of {name}", results[1][name], gradient, FLOAT32)


def check_calibration(subject: Subject, draw):
    """Calibrated budgets hold on the calibration text, up to equal scores, and a saved table is read back."""
    assume(subject.settings["fork_rule"] in ("topk", "threshold") and 0 not in subject.settings["fork_layers"])
    assume(len(subject.settings["fork_layers"]) > 0)
    model, inputs = subject.build(fork_calibration=None), Inputs(subject, draw(SEEDS))
    ids = inputs.draw_ids(3, 24)
    package.calibrate_forks(model, [{"input_ids": ids}], budgets=(1.0, 2.0))
    assert model.config.fork_rule == "threshold"
    with torch.no_grad():
        forks = {b: model(input_ids=ids, fork_budget=b, output_forks=True).forks for b in (1.0, 1.5, 2.0)}
    counts = {budget: float(fork[-1].num_streams.double().mean()) for budget, fork in forks.items()}
    assert counts[1.0] == 1.0 and counts[1.0] <= counts[1.5] <= counts[2.0], counts
    assert abs(counts[2.0] - 2.0) < 0.15, counts


# check -> (function, families, what the subject needs)
CHECKS = {
    "cache": (check_cache, FAMILIES, "causal"),
    "padding": (check_padding, FAMILIES, "padding"),
    "packing": (check_packing, TEXT_FAMILIES, ""),
    "causality": (check_causality, FAMILIES, "causal"),
    "saving": (check_saving, FAMILIES, ""),
    "accumulation": (check_accumulation, FAMILIES, ""),
    "loss": (check_loss, FAMILIES, ""),
    "generation": (check_generation, FAMILIES, ""),
    "beams": (check_beams, FAMILIES, "causal"),
    "fields": (check_generation_fields, FAMILIES, ""),
    "determinism": (check_determinism, FAMILIES, ""),
    "gradients": (check_gradients, FAMILIES, ""),
    "last_logits": (check_last_logits, [name for name in FAMILIES if name != "thinker"], ""),
    "vectors": (check_vectors, [name for name in FAMILIES if name != "byte_patch"], ""),
    "attention": (check_attention, FAMILIES, ""),
    "replay": (check_replay, FAMILIES, ""),
    "calibration": (check_calibration, ["thoughtbubbles"], ""),
}
HEAD_CHECKS = ("padding", "saving", "determinism", "gradients")


def list_cells() -> list[str]:
    """All pairs of a family and a check; heads that classify are pairs of their own."""
    cells = [f"{family}/{check}" for check, (_, families, _) in CHECKS.items() for family in families]
    return cells + [f"{family}_heads/{check}" for family in HEADS for check in HEAD_CHECKS]


def run_cell(cell: str, draw):
    """Draw one subject and check it."""
    family, check = cell.split("/")
    function, _, needs = CHECKS[check]
    is_head = family.endswith("_heads")
    family = family.removesuffix("_heads")
    if needs == "padding":  # the published rule is the one exception, and the only one
        needs = "causal" if family == "thoughtbubbles" else ""
    subject = draw(subjects(family, needs, is_head))
    function(subject, draw)


__all__ = ["CHECKS", "CONFIGS", "list_cells", "run_cell"]
