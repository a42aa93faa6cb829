"""Checks of exercises: plain functions that take the learner's object.

    from minipeft import checks
    checks.lora(LoRAPatch)      # one green line, or one sentence that names the mistake

`EXERCISES` says which check judges which exercise, for the lessons and `python -m minipeft check`:
the object that a learner writes, or "minipeft.checks:NAME" where the answer is a number. A check is
called here by its `name`, and is public.
"""

from minipeft.checks.exercises.adapter import adapter
from minipeft.checks.exercises.adapter_numbers import adapter_faults, adapter_parameters
from minipeft.checks.exercises.adapter_work import adapter_work
from minipeft.checks.exercises.answer_log_probability import answer_log_probability
from minipeft.checks.exercises.asked_for import asked_for
from minipeft.checks.exercises.attend import attend
from minipeft.checks.exercises.attention import attention
from minipeft.checks.exercises.batch_patients import batch_patients
from minipeft.checks.exercises.behind_last import behind_last
from minipeft.checks.exercises.block import block
from minipeft.checks.exercises.budget_faults import budget_faults
from minipeft.checks.exercises.cache_costs import cache_costs
from minipeft.checks.exercises.causal import causal
from minipeft.checks.exercises.causal_mask import causal_mask
from minipeft.checks.exercises.checkpoint_shapes import checkpoint_shapes
from minipeft.checks.exercises.cross_entropy import cross_entropy
from minipeft.checks.exercises.deep_numbers import deep_numbers
from minipeft.checks.exercises.deep_patients import deep_patients
from minipeft.checks.exercises.dpo_loss import dpo_loss, dpo_numbers, dpo_patients
from minipeft.checks.exercises.encoder_parameters import encoder_parameters
from minipeft.checks.exercises.extend_cache import extend_cache
from minipeft.checks.exercises.fair_pair import fair_pair
from minipeft.checks.exercises.feed_forward import feed_forward
from minipeft.checks.exercises.first_by_luck import first_by_luck
from minipeft.checks.exercises.folder_patients import folder_patients
from minipeft.checks.exercises.forgotten import forgotten
from minipeft.checks.exercises.gate import gate
from minipeft.checks.exercises.gate_numbers import closed_gate, gate_patients, union_numbers
from minipeft.checks.exercises.learning_rate import learning_rate
from minipeft.checks.exercises.lora import lora
from minipeft.checks.exercises.lora_gradients import lora_gradients
from minipeft.checks.exercises.lora_merge import lora_merge
from minipeft.checks.exercises.lora_parameters import lora_parameters
from minipeft.checks.exercises.masked import masked
from minipeft.checks.exercises.memory_numbers import again_patients, kept_numbers
from minipeft.checks.exercises.mixed_lora import mixed_lora
from minipeft.checks.exercises.museum import room_one, room_two, smallest_step
from minipeft.checks.exercises.nine_intervals import nine_intervals
from minipeft.checks.exercises.one_prompt import one_prompt
from minipeft.checks.exercises.output_scale import output_scale
from minipeft.checks.exercises.p_tuning_diagnosis import p_tuning_diagnosis
from minipeft.checks.exercises.p_tuning_v2 import p_tuning_v2
from minipeft.checks.exercises.pack_prefix import pack_prefix
from minipeft.checks.exercises.pareto_front import pareto_front
from minipeft.checks.exercises.place_vectors import place_vectors
from minipeft.checks.exercises.prefix_encoder import prefix_encoder
from minipeft.checks.exercises.prefix_gradients import prefix_gradients
from minipeft.checks.exercises.prefix_numbers import prefix_numbers
from minipeft.checks.exercises.prefix_patients import prefix_patients
from minipeft.checks.exercises.prefix_price import prefix_price
from minipeft.checks.exercises.promising import promising
from minipeft.checks.exercises.prompt_costs import prompt_costs
from minipeft.checks.exercises.prompt_encoder import prompt_encoder
from minipeft.checks.exercises.prompt_patients import prompt_patients
from minipeft.checks.exercises.prompt_share import prompt_share
from minipeft.checks.exercises.put_in_front import put_in_front
from minipeft.checks.exercises.puzzle_floor import puzzle_floor
from minipeft.checks.exercises.quantize_blocks import quantize_blocks
from minipeft.checks.exercises.rank_floor import rank_floor
from minipeft.checks.exercises.same_budget import same_budget
from minipeft.checks.exercises.seeing_patients import seeing_patients
from minipeft.checks.exercises.server_patients import server_patients
from minipeft.checks.exercises.serving_costs import serving_costs
from minipeft.checks.exercises.shots_bytes import shots_bytes
from minipeft.checks.exercises.similarity import overlaps, similarity
from minipeft.checks.exercises.small_numbers import small_numbers
from minipeft.checks.exercises.span_corruption import span_corruption
from minipeft.checks.exercises.train_top import train_top
from minipeft.checks.exercises.training_bytes import training_bytes
from minipeft.checks.exercises.transfer_numbers import adam_bytes, transfer_patients
from minipeft.checks.exercises.unfair_contests import unfair_contests
from minipeft.checks.exercises.update_averages import update_averages
from minipeft.checks.exercises.vera import vera
from minipeft.checks.exercises.vera_numbers import vera_numbers, vera_patients
from minipeft.checks.exercises.vera_patch import vera_patch
from minipeft.checks.framework import CheckFailed, NotFinished

EXERCISES = {
    check.exercise: check
    for check in (
        attend,
        causal_mask,
        attention,
        cache_costs,
        extend_cache,
        feed_forward,
        block,
        seeing_patients,
        put_in_front,
        cross_entropy,
        causal,
        masked,
        batch_patients,
        span_corruption,
        puzzle_floor,
        learning_rate,
        train_top,
        transfer_patients,
        forgotten,
        adam_bytes,
        training_bytes,
        adapter,
        adapter_parameters,
        adapter_faults,
        adapter_work,
        behind_last,
        promising,
        shots_bytes,
        lora,
        lora_parameters,
        lora_gradients,
        rank_floor,
        lora_merge,
        similarity,
        overlaps,
        place_vectors,
        prompt_costs,
        prompt_patients,
        one_prompt,
        prompt_encoder,
        encoder_parameters,
        p_tuning_diagnosis,
        fair_pair,
        prefix_encoder,
        prefix_gradients,
        prefix_numbers,
        prefix_patients,
        p_tuning_v2,
        deep_numbers,
        deep_patients,
        prompt_share,
        gate,
        closed_gate,
        gate_patients,
        nine_intervals,
        union_numbers,
        small_numbers,
        output_scale,
        update_averages,
        budget_faults,
        kept_numbers,
        again_patients,
        quantize_blocks,
        room_one,
        smallest_step,
        asked_for,
        room_two,
        checkpoint_shapes,
        pack_prefix,
        folder_patients,
        serving_costs,
        mixed_lora,
        prefix_price,
        server_patients,
        vera_numbers,
        vera_patch,
        vera_patients,
        vera,
        same_budget,
        pareto_front,
        unfair_contests,
        first_by_luck,
        answer_log_probability,
        dpo_loss,
        dpo_numbers,
        dpo_patients,
    )
}

__all__ = [
    "EXERCISES",
    "CheckFailed",
    "NotFinished",
    *(check.name for check in EXERCISES.values()),
]
