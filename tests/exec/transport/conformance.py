"""One suite that every transport must pass: plain functions that all ranks call together.

The tests run them on threads; ``mpiexec -n P python -m tests.exec.transport.conformance`` runs them
on MPI, and ``device_conformance`` beside this on devices. Sums are of small integers, so they are
exact in any order, unless a case says otherwise.
"""

from exec.runtime.job import TransportName, run_job
from tests.exec.transport.collective_cases import (
    allgather_collects_the_shares,
    allreduce_adds,
    allreduce_leaves_the_same_bits_on_all_ranks,
    barrier_ends_and_touches_nothing,
    broadcast_copies_the_root_s,
    collectives_under_way_may_end_in_any_order,
    reduce_adds_at_the_root,
    reduce_scatter_adds_and_keeps_the_share,
    starting_a_collective_does_not_block,
)
from tests.exec.transport.group_cases import (
    collectives_are_counted_once_in_either_form,
    gather_objects_gives_every_rank_every_value,
    gathering_objects_is_not_counted,
    groups_count_together,
    groups_do_not_hear_one_another,
    lock_is_held_by_one_rank_at_a_time,
    messages_are_counted_where_they_are_sent,
    shared_arrays_begin_as_zeros_and_are_seen_by_all,
    shared_arrays_may_be_of_one_rank_only,
    split_keeps_the_order_of_ranks,
    split_of_a_split_is_a_group_of_its_own,
)
from tests.exec.transport.message_cases import (
    any_source_comes_true_without_wait,
    any_source_takes_each_message_once,
    dtypes_pass_through,
    message_may_be_empty,
    message_may_be_large,
    message_may_be_part_of_an_array,
    messages_of_one_tag_keep_their_order,
    receive_may_come_before_its_send,
    sent_array_is_free_once_its_request_is_done,
    sources_are_told_apart,
    tags_are_told_apart,
    test_comes_true_without_wait,
)
from tests.exec.transport.placed import Case, Wire, get_ready

CASES: tuple[Case, ...] = (
    messages_of_one_tag_keep_their_order,
    tags_are_told_apart,
    sources_are_told_apart,
    receive_may_come_before_its_send,
    any_source_takes_each_message_once,
    any_source_comes_true_without_wait,
    message_may_be_empty,
    message_may_be_large,
    message_may_be_part_of_an_array,
    sent_array_is_free_once_its_request_is_done,
    test_comes_true_without_wait,
    dtypes_pass_through,
    allreduce_adds,
    allreduce_leaves_the_same_bits_on_all_ranks,
    allgather_collects_the_shares,
    reduce_scatter_adds_and_keeps_the_share,
    broadcast_copies_the_root_s,
    reduce_adds_at_the_root,
    barrier_ends_and_touches_nothing,
    starting_a_collective_does_not_block,
    collectives_under_way_may_end_in_any_order,
    split_keeps_the_order_of_ranks,
    split_of_a_split_is_a_group_of_its_own,
    groups_do_not_hear_one_another,
    shared_arrays_begin_as_zeros_and_are_seen_by_all,
    shared_arrays_may_be_of_one_rank_only,
    lock_is_held_by_one_rank_at_a_time,
    gather_objects_gives_every_rank_every_value,
    messages_are_counted_where_they_are_sent,
    collectives_are_counted_once_in_either_form,
    groups_count_together,
    gathering_objects_is_not_counted,
)


SHARING: tuple[Case, ...] = (
    shared_arrays_begin_as_zeros_and_are_seen_by_all,
    shared_arrays_may_be_of_one_rank_only,
    lock_is_held_by_one_rank_at_a_time,
)
TCP_CASES = tuple(case for case in CASES if case not in SHARING)
"""Processes that TCP connects may be on different nodes: no memory in common, so no locks."""

NCCL_CANNOT: dict[Case, str] = {
    tags_are_told_apart: "messages match in order",
    any_source_takes_each_message_once: "it must know who sends",
    any_source_comes_true_without_wait: "it must know who sends",
    receive_may_come_before_its_send: "a receive holds its lane, and so what its send comes after",
    starting_a_collective_does_not_block: "a collective holds its lane, and what comes after it",
    **dict.fromkeys(SHARING, "every rank has a GPU of its own"),
}
NCCL_CASES = tuple(case for case in CASES if case not in NCCL_CANNOT)


def conform(wire: Wire, cases: tuple[Case, ...] = CASES) -> None:
    """Do ``cases``; rank 0 says which are done, so that the last one named is before the fault."""
    get_ready(wire)
    for case in cases:
        case(wire)
        wire.gather_objects(None)
        if wire.rank == 0:
            print("conforms:", case.__name__, flush=True)


if __name__ == "__main__":
    run_job(TransportName.MPI, None, conform)
