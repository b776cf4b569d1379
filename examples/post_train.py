# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Post-train a model that thinks with TRL: SFT, then DPO, then GRPO with an exact reward.

The task is generated: a user asks to sort letters ("sort dbca"), and the answer is right if it is exactly "abcd". From
nothing, a looped Thinker whose number of steps is drawn for every optimizer step (about 2 minutes on 2 cores):

    python examples/post_train.py --output_dir runs/post --family thinker --train_values 2 6

Forks with a budget of 1.5 streams per token; LoRA from a checkpoint; one stage alone:

    python examples/post_train.py --output_dir runs/forked --family thoughtbubbles
    python examples/post_train.py --output_dir runs/lora --model runs/post/sft --stages dpo grpo --lora \
        --dpo_learning_rate 1e-3 --grpo_learning_rate 2e-3

Before the first stage and after each one it measures accuracy (greedy answers, graded exactly), reward (sampled ones),
accuracy at other numbers of streams or steps, and how much the model thinks. Each measurement is a line of
`results.jsonl` in the output folder, and each stage saves a checkpoint there. docs/guides/post_training.md explains
the choices.
"""

import json
import random
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser, set_seed
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from hf_thoughtbubbles import (
    LoopedThinkerForCausalLM,
    LoopedThinkerTextConfig,
    ThoughtbubblesConfig,
    ThoughtbubblesForCausalLM,
    build_byte_tokenizer,
    calibrate_forks,
    set_chat_template,
)
from hf_thoughtbubbles.training.thinking_schedule import ThinkingSchedule


LETTERS = "abcdefgh"
TEST_SEED = 1_000_000  # of other problems than those of training; the shortest are in both
LENGTH = 96  # longest conversation, in bytes
SETTLED = 0.05  # relative change of a latent below which a step of a Thinker changes little


@dataclass
class ModelArguments:
    """The model to post-train."""

    family: Literal["thoughtbubbles", "thinker"] = field(
        default="thinker", metadata={"help": "Family of a new model: forks by the threshold rule, or a loop."}
    )
    model: str | None = field(
        default=None, metadata={"help": "Checkpoint (folder or Hub name) to start from, of any causal family."}
    )
    hidden_size: int = field(default=64, metadata={"help": "Width of a new model."})
    train_values: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Streams per token or number of steps in training: one, or the least and the most to draw from "
            "(default: the model's own)."
        },
    )
    test_values: list[float] = field(
        default_factory=list, metadata={"help": "Streams per token or numbers of steps to test with."}
    )
    lora: bool = field(default=False, metadata={"help": "Train LoRA on all linear layers, merged after each stage."})
    lora_rank: int = field(default=8, metadata={"help": "Rank of LoRA."})


@dataclass
class StageArguments:
    """What is trained, and for how long."""

    output_dir: str = field(metadata={"help": "Folder of checkpoints and results."})
    stages: list[str] = field(
        default_factory=lambda: ["sft", "dpo", "grpo"],
        metadata={"help": "Stages, in order.", "choices": ["sft", "dpo", "grpo"]},
    )
    loss_on: Literal["assistant", "completion", "all"] = field(
        default="assistant",
        metadata={"help": "SFT: tokens in the loss: of all answers, of the last one (prompt and completion), or all."},
    )
    packing: Literal["none", "bfd", "wrapped"] = field(
        default="none", metadata={"help": "SFT: how conversations are packed into rows of 96 bytes."}
    )
    sft_steps: int = field(default=100, metadata={"help": "Optimizer steps of SFT."})
    dpo_steps: int = field(default=20, metadata={"help": "Optimizer steps of DPO."})
    grpo_steps: int = field(default=50, metadata={"help": "Optimizer steps of GRPO."})
    sft_learning_rate: float = field(default=5e-3, metadata={"help": "Highest learning rate of SFT."})
    dpo_learning_rate: float = field(default=5e-4, metadata={"help": "Highest learning rate of DPO."})
    grpo_learning_rate: float = field(default=5e-4, metadata={"help": "Highest learning rate of GRPO."})
    batch_size: int = field(default=32, metadata={"help": "SFT and DPO: conversations of a step; half as many pairs."})
    num_questions: int = field(default=8, metadata={"help": "GRPO: questions of a step."})
    num_generations: int = field(default=8, metadata={"help": "GRPO: answers to each question of a step."})
    longest: int = field(default=6, metadata={"help": "Most letters to sort; the fewest are 3."})
    num_tests: int = field(default=200, metadata={"help": "Questions of a measurement."})
    seed: int = field(default=0, metadata={"help": "Seed of the weights, the problems and the draws."})
    use_cpu: bool = field(default=False, metadata={"help": "Train on the CPU."})


# Task


def make_problems(count: int, longest: int, seed: int) -> list[dict]:
    """Questions, each a conversation of one message, and their answers."""
    generator, problems = random.Random(seed), []
    for _ in range(count):
        letters = generator.choices(LETTERS, k=generator.randint(3, longest))
        question = [{"role": "user", "content": "sort " + "".join(letters)}]
        problems.append({"prompt": question, "answer": "".join(sorted(letters))})
    return problems


def answer(text: str) -> list[dict]:
    """A conversation of one answer."""
    return [{"role": "assistant", "content": text}]


def reward_exact(completions: list, answer: list[str], **kwargs) -> list[float]:
    """1 for an answer that is right to the letter, 0 for any other."""
    return [float(messages[0]["content"] == right) for messages, right in zip(completions, answer, strict=True)]


# Model


def build_model(parser: HfArgumentParser, arguments: ModelArguments):
    """The model, its tokenizer, and the field that says how much it thinks; none for a native model."""
    if arguments.model is None:
        tokenizer = set_chat_template(build_byte_tokenizer(model_max_length=LENGTH))
        sizes = {"vocab_size": len(tokenizer), "hidden_size": arguments.hidden_size, "max_position_embeddings": LENGTH}
        sizes |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        if arguments.family == "thinker":
            model = LoopedThinkerForCausalLM(LoopedThinkerTextConfig(num_steps=4, **sizes))
        else:
            forks = {"fork_layers": [1, 2], "fork_budget": 1.5, "fork_rule": "threshold"}
            heads = {"num_hidden_layers": 4, "num_attention_heads": 4}
            model = ThoughtbubblesForCausalLM(ThoughtbubblesConfig(**forks, **heads, **sizes))
    else:
        model = AutoModelForCausalLM.from_pretrained(arguments.model)
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)
        if tokenizer.chat_template is None:
            set_chat_template(tokenizer)
    fields = model.config.to_dict()
    setting = next((name for name in ("fork_budget", "num_steps") if name in fields), None)
    if setting is None and (arguments.train_values or arguments.test_values):
        parser.error(
            f"--train_values and --test_values need a model with forks or steps, not `{model.config.model_type}`"
        )
    if setting == "num_steps":
        arguments.train_values, arguments.test_values = map(to_steps, (arguments.train_values, arguments.test_values))
    return model, tokenizer, setting


def to_steps(values: list[float]) -> list[int]:
    """Numbers of steps are whole."""
    return [int(value) for value in values]


# Measure


@torch.no_grad()
def write_answers(model, tokenizer, problems: list[dict], **options) -> list[str]:
    """The answers of a model, greedy by default."""
    inputs = tokenizer.apply_chat_template(
        [problem["prompt"] for problem in problems],
        add_generation_prompt=True,
        padding=True,
        tokenizer_kwargs={"padding_side": "left"},
        return_tensors="pt",
    ).to(model.device)
    options = {"do_sample": False, "max_new_tokens": max(len(p["answer"]) for p in problems) + 2, **options}
    written = model.eval().generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    return tokenizer.batch_decode(written, skip_special_tokens=True)


def grade(answers: list[str], problems: list[dict]) -> float:
    """Share of right answers."""
    right = [problem["answer"] for problem in problems]
    return sum(reward_exact([answer(text) for text in answers], right)) / len(right)


def read_conversations(tokenizer, problems: list[dict]) -> dict[str, torch.Tensor]:
    """Questions with their right answers, padded on the right."""
    whole = [problem["prompt"] + answer(problem["answer"]) for problem in problems]
    kwargs = {"padding_side": "right"}
    return tokenizer.apply_chat_template(whole, padding=True, tokenizer_kwargs=kwargs, return_tensors="pt")


@torch.no_grad()
def measure_thinking(model, tokenizer, problems: list[dict], setting: str) -> dict[str, float]:
    """Streams per token after the last fork, or steps until the latent of a token changes by less than 5 %."""
    inputs = read_conversations(tokenizer, problems).to(model.device)
    is_read = inputs["attention_mask"].bool()
    if setting == "fork_budget":
        forks = model.eval()(**inputs, output_forks=True, use_cache=False).forks
        return {"streams_per_token": forks[-1].num_streams[is_read].float().mean().item()}
    options = {"num_steps": 4 * model.config.num_steps, "exit_threshold": SETTLED}
    used = model.eval()(**inputs, **options, use_cache=False).num_steps_used
    return {"steps_to_settle": used[is_read].float().mean().item()}


def measure(model, tokenizer, setting: str | None, arguments: ModelArguments, args: StageArguments) -> dict:
    """Accuracy, reward and thinking on problems drawn with another seed than those of training."""
    problems = make_problems(args.num_tests, args.longest, TEST_SEED)
    sampled = write_answers(model, tokenizer, problems, do_sample=True, top_k=0)
    found = {
        "accuracy": grade(write_answers(model, tokenizer, problems), problems),
        "reward": grade(sampled, problems),
    }
    if setting is None:
        return found
    tested = arguments.test_values or ([1.0, 1.25, 1.5, 2.0] if setting == "fork_budget" else [1, 2, 4, 8])
    found[f"accuracy_at_{setting}"] = {
        value: grade(write_answers(model, tokenizer, problems, **{setting: value}), problems) for value in tested
    }
    return found | {setting: getattr(model.config, setting)} | measure_thinking(model, tokenizer, problems, setting)


# Train


def make_config(config_class, stage: str, args: StageArguments, batch_size: int, **options):
    """The configuration of one of TRL's trainers."""
    return config_class(
        output_dir=f"{args.output_dir}/{stage}-training",
        max_steps=getattr(args, f"{stage}_steps"),
        learning_rate=getattr(args, f"{stage}_learning_rate"),
        per_device_train_batch_size=batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        adam_beta2=0.95,
        seed=args.seed,
        use_cpu=args.use_cpu,
        bf16=False,
        activation_checkpointing=False,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available() and not args.use_cpu,
        **options,
    )


def build_sft(model, tokenizer, args: StageArguments, **common) -> SFTTrainer:
    """SFT on questions with right answers."""
    problems = make_problems(args.sft_steps * args.batch_size, args.longest, args.seed)
    if args.loss_on == "completion":
        rows = [{"prompt": row["prompt"], "completion": answer(row["answer"])} for row in problems]
    else:
        rows = [{"messages": row["prompt"] + answer(row["answer"])} for row in problems]
    packing = {} if args.packing == "none" else {"packing": True, "packing_strategy": args.packing}
    packing |= {"max_length": LENGTH, "assistant_only_loss": args.loss_on == "assistant"}
    config = make_config(SFTConfig, "sft", args, args.batch_size, **packing)
    return SFTTrainer(model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, **common)


def build_dpo(model, tokenizer, args: StageArguments, **common) -> DPOTrainer:
    """DPO on pairs of the right answer and a wrong one that the model has written."""
    batch_size = args.batch_size // 2
    problems = make_problems(4 * args.dpo_steps * batch_size, args.longest, args.seed + 1)
    written = [
        text
        for start in range(0, len(problems), args.num_tests)
        for text in write_answers(model, tokenizer, problems[start:][: args.num_tests], do_sample=True, top_k=0)
    ]
    rows = [
        {"prompt": row["prompt"], "chosen": answer(row["answer"]), "rejected": answer(text)}
        for row, text in zip(problems, written, strict=True)
        if text != row["answer"]
    ]
    print(f"{len(rows)} pairs from {len(problems)} sampled answers", flush=True)
    losses = {
        "loss_type": ["sigmoid", "sft"],
        "loss_weights": [1.0, 1.0],
    }  # without "sft", right answers lose likelihood
    config = make_config(DPOConfig, "dpo", args, batch_size, max_length=LENGTH, **losses)
    return DPOTrainer(model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, **common)


def build_grpo(model, tokenizer, args: StageArguments, **common) -> GRPOTrainer:
    """GRPO with the exact reward."""
    problems = Dataset.from_list(make_problems(args.grpo_steps * args.num_questions, args.longest, args.seed + 2))
    rollouts = {"num_generations": args.num_generations, "max_completion_length": args.longest + 2, "top_k": 0}
    config = make_config(GRPOConfig, "grpo", args, args.num_questions * args.num_generations, **rollouts)
    return GRPOTrainer(model, reward_exact, config, train_dataset=problems, processing_class=tokenizer, **common)


BUILDERS = {"sft": build_sft, "dpo": build_dpo, "grpo": build_grpo}


def calibrate(model, tokenizer, args: StageArguments):
    """Measure thresholds of several budgets, where the fork rule of the model has thresholds."""
    if getattr(model.config, "has_fork_thresholds", False):
        problems = make_problems(args.num_tests, args.longest, args.seed)
        calibrate_forks(model, [read_conversations(tokenizer, problems)])


def train(stage: str, model, tokenizer, setting: str | None, arguments: ModelArguments, args: StageArguments):
    """Train one stage and save its checkpoint; returns the folder."""
    folder, common = Path(args.output_dir) / stage, {}
    if arguments.lora:
        lora = {"r": arguments.lora_rank, "lora_alpha": 2 * arguments.lora_rank, "target_modules": "all-linear"}
        common["peft_config"] = LoraConfig(task_type="CAUSAL_LM", **lora)
    trainer = BUILDERS[stage](model.train(), tokenizer, args, **common)
    if arguments.train_values:
        values = arguments.train_values
        reference = None if stage == "sft" else trainer.ref_model
        schedule = ThinkingSchedule([values[0] if len(values) == 1 else values], seed=args.seed, reference=reference)
        trainer.add_callback(schedule)
    trainer.train()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    trained = trained.merge_and_unload() if arguments.lora else trained
    if stage == "sft":
        calibrate(trained, tokenizer, args)
    trained.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main(flags: list[str] | None = None):
    """Parse flags; train the stages, one after the other, and measure around each."""
    parser = HfArgumentParser((ModelArguments, StageArguments))
    arguments, args = parser.parse_args_into_dataclasses(flags)
    set_seed(args.seed)
    model, tokenizer, setting = build_model(parser, arguments)
    folder = Path(args.output_dir) / "start"
    if getattr(model.config, "fork_calibration", None) is None:
        calibrate(model, tokenizer, args)
    model.save_pretrained(folder)  # TRL loads the reference from the policy's folder
    tokenizer.save_pretrained(folder)

    for stage in ["start", *args.stages]:
        start = time.perf_counter()
        if stage != "start":
            folder = train(stage, model, tokenizer, setting, arguments, args)
        seconds = time.perf_counter() - start
        model = AutoModelForCausalLM.from_pretrained(folder)
        if torch.cuda.is_available() and not args.use_cpu:
            model = model.cuda()
        row = {"stage": stage, **measure(model, tokenizer, setting, arguments, args), "seconds": round(seconds, 1)}
        row |= {"parameters": model.num_parameters(), **asdict(arguments), **asdict(args)}
        print(json.dumps(row), flush=True)
        with (Path(args.output_dir) / "results.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
