"""The page for who comes from Covalent: its names are there, and each of its rows has tests that would miss it."""

from __future__ import annotations

import re
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Final

import pytest

import hpcflow

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "howto" / "from-covalent.md"

#: By the beginning of a row: tests, as file::name. A ★ row, which is for clusters, has one of tests/cluster.
TESTS: Final[dict[str, tuple[str, ...]]] = {
    # Building workflows
    "`@ct.electron(…)`": (
        "unit/test_workflow.py::test_outside_a_lattice_an_electron_is_a_plain_function",
        "unit/test_workflow.py::test_each_call_becomes_a_task_that_depends_on_its_arguments",
        "cluster/test_dispatches.py::test_annotations_reach_slurm_and_what_it_gives_reaches_the_task",
    ),
    "`@ct.lattice(…)`": (
        "unit/test_annotations.py::test_an_electron_inherits_what_it_leaves_open",
        "unit/test_executors.py::test_a_lattices_executor_holds_for_electrons_that_name_none_and_nothing_decorated_changes",
        "cluster/test_dispatches.py::test_two_hundred_tasks_and_their_sum_cost_one_submission",
    ),
    "calling a lattice": ("unit/test_workflow.py::test_a_lattice_called_directly_runs_as_plain_python",),
    "`workflow_executor=`": (
        "unit/test_executors.py::test_sublattices_hand_their_executor_down_and_build_where_workflow_executor_says",
        "cluster/test_executors.py::test_a_slurm_executors_arguments_reach_its_jobs",
    ),
    "sublattice:": (
        "integration/test_sublattices.py::test_sublattices_nest_and_their_results_are_there_by_level",
        "integration/test_sublattices.py::test_a_loop_of_sublattices_runs_until_a_result_says_so",
        "cluster/test_sublattices.py::test_a_sublattice_s_tasks_inherit_what_they_ask_for_and_join_the_workers_that_live",
    ),
    "parameter nodes": ("unit/test_client.py::test_literal_arguments_are_nodes_behind_the_tasks",),
    "lists, tuples, sets and dicts": (
        "unit/test_workflow.py::test_results_arrive_wherever_they_lie_in_a_structure",
        "unit/test_workflow.py::test_tuples_stay_tuples_and_sets_stay_sets",
    ),
    "`e[i]`": (
        "unit/test_placeholder.py::test_items_keys_slices_and_attributes_of_a_result_are_results",
        "unit/test_placeholder.py::test_a_result_unpacks_into_as_many_names_as_the_line_has",
        "cluster/test_tutorials.py::test_programs_of_covalent_s_kinds_run_on_slurm_as_they_are",
    ),
    "arithmetic on results": (
        "unit/test_placeholder.py::test_an_operator_on_results_gives_what_it_gives_on_values",
        "unit/test_placeholder.py::test_an_operator_on_one_result_gives_what_it_gives_on_the_value",
    ),
    "`for`, `if`": (
        "unit/test_placeholder.py::test_a_question_to_a_result_that_does_not_exist_yet_is_refused_with_advice",
    ),
    "`ct.wait": (
        "unit/test_workflow.py::test_wait_orders_two_tasks_without_passing_a_value",
        "integration/test_covalent_calls.py::test_an_electron_knows_its_task_and_a_held_dispatch_waits_to_be_resumed",
    ),
    "task packing": ("cluster/test_dispatches.py::test_two_hundred_tasks_and_their_sum_cost_one_submission",),
    "postprocessing": ("integration/test_results.py::test_results_keep_their_nested_shape_and_tuples_stay_tuples",),
    "`ct.DepsBash": (
        "integration/test_hooks.py::test_a_hook_that_fails_fails_its_task_with_a_sentence",
        "cluster/test_hooks.py::test_hooks_run_in_the_task_s_job_and_give_it_arguments",
    ),
    "`ct.DepsPip": (
        "integration/test_hooks.py::test_modules_travel_and_packages_are_installed_once",
        "cluster/test_environments.py::test_a_bag_with_an_environment_of_its_own",
    ),
    "`ct.DepsModule": (
        "integration/test_hooks.py::test_modules_travel_and_packages_are_installed_once",
        "unit/test_pickling.py::test_a_package_of_the_users_runs_where_it_is_not_installed",
        "cluster/test_covalent_calls.py::test_what_ran_on_slurm_runs_there_again_by_hand_and_by_a_trigger",
    ),
    "`ct.DepsCall": (
        "integration/test_hooks.py::test_hooks_run_in_covalent_s_order_in_the_task_s_process_and_its_directory",
        "cluster/test_hooks.py::test_hooks_run_in_the_task_s_job_and_give_it_arguments",
    ),
    "file transfer:": (
        "integration/test_transfer.py::test_files_come_before_a_task_and_go_after_it_in_their_order",
        "unit/test_transfer.py::test_rsync_goes_over_ssh_with_its_key_and_no_text_of_ours_is_a_shell_s",
        "cluster/test_tutorials.py::test_programs_of_covalent_s_kinds_run_on_slurm_as_they_are",
    ),
    "leptons:": (
        "integration/test_leptons.py::test_functions_of_a_c_library_take_and_give_values",
        "integration/test_leptons.py::test_bash_gets_its_arguments_as_words_and_gives_back_named_variables",
    ),
    "`lattice.draw": ("unit/test_drawing.py::test_every_task_is_a_box_with_arrows_for_arguments_and_dots_for_order",),
    "`ct.get_context": (
        "integration/test_covalent_calls.py::test_an_electron_knows_its_task_and_a_held_dispatch_waits_to_be_resumed",
    ),
    "`set_metadata`": ("unit/test_metadata.py::test_a_changed_electron_asks_for_something_else_from_the_next_call_on",),
    "`TransportableObject`": ("unit/test_client.py::test_nothing_of_another_python_is_unpickled",),
    # Running, and results
    "`ct.dispatch(": (
        "unit/test_client.py::test_a_dispatch_is_one_upload_with_the_clients_own_id",
        "integration/test_covalent_calls.py::test_an_electron_knows_its_task_and_a_held_dispatch_waits_to_be_resumed",
        "cluster/test_dispatches.py::test_values_go_from_cluster_to_cluster_whole",
    ),
    "`ct.dispatch_sync": (
        "integration/test_failures.py::test_an_interrupt_ends_the_waiting_program_and_not_the_dispatch",
    ),
    "`ct.redispatch": (
        "integration/test_redispatch.py::test_new_arguments_take_the_place_of_stored_ones_and_the_others_stay",
        "integration/test_redispatch.py::test_what_completed_is_not_run_again",
        "cluster/test_reuse.py::test_what_completed_costs_no_job_again",
        "cluster/test_covalent_calls.py::test_what_ran_on_slurm_runs_there_again_by_hand_and_by_a_trigger",
    ),
    "`ct.get_result(": (
        "unit/test_client.py::test_status_only_asks_for_nothing_else",
        "integration/test_results.py::test_another_process_reads_the_result_later",
    ),
    "`ct.get_result_manager": (
        "integration/test_redispatch.py::test_a_result_manager_brings_single_parts_into_files_and_reads_them_without_a_server",
    ),
    "`ct.Result`": (
        "unit/test_client.py::test_a_result_tells_its_inputs_its_root_and_itself_in_lines",
        "unit/test_client.py::test_all_outputs_come_in_one_stream",
    ),
    "fields of nodes": ("unit/test_client.py::test_covalents_names_for_a_tasks_fields_work",),
    "`ct.Status`": (
        "unit/test_client.py::test_a_dispatch_is_new_until_it_runs_and_statuses_are_equal_to_their_texts",
        "unit/test_client.py::test_a_tasks_status_is_covalents",
        "cluster/test_ends.py::test_an_end_that_slurm_knows",
    ),
    "failures": ("integration/test_failures.py::test_a_failure_skips_what_depends_on_it_and_stops_nothing_else",),
    "`ct.cancel": (
        "integration/test_failures.py::test_a_cancel_kills_running_tasks_and_their_children",
        "cluster/test_dispatches.py::test_a_cancel_empties_the_queue_and_kills_what_runs",
    ),
    "triggers:": (
        "integration/test_triggers.py::test_triggers_run_copies_of_a_dispatch_until_they_are_stopped",
        "unit/test_trigger_supervision.py::test_a_trigger_fires_through_its_own_process_only_and_each_firing_once",
        "unit/test_watching.py::test_new_rows_that_fit_fire_once_and_others_never",
        "cluster/test_covalent_calls.py::test_what_ran_on_slurm_runs_there_again_by_hand_and_by_a_trigger",
    ),
    "`retries=`": (
        "integration/test_executors.py::test_a_local_executors_folders_and_retries_act",
        "unit/test_executors.py::test_an_annotation_goes_before_the_option_and_a_time_limit_acts",
        "integration/test_failures.py::test_a_task_is_stopped_at_its_own_walltime_and_its_neighbours_are_not",
        "cluster/test_ends.py::test_an_end_that_slurm_knows",
    ),
    "`ct.covalent_start": (
        "integration/test_programs_and_servers.py::test_a_program_stops_starts_and_configures_its_server",
    ),
    # Server, command line, settings
    "server": ("integration/test_server_death.py::test_a_dispatch_survives_the_death_of_its_server",),
    "REST v2": ("unit/test_docs.py::test_the_page_names_every_request",),
    "no authentication": (
        "unit/test_guard.py::test_every_path_with_every_method_is_closed_to_strangers",
        "unit/test_guard.py::test_another_users_process_is_refused_on_the_unix_socket",
    ),
    "command line": ("unit/test_docs.py::test_the_page_names_every_command",),
    "`covalent.conf`": (
        "unit/test_docs.py::test_the_page_names_every_setting_with_its_default",
        "unit/test_public_names.py::test_importing_hpcflow_loads_none_of_its_parts",
    ),
    "what is kept": (
        "unit/test_store_file.py::test_a_killed_server_leaves_whole_transactions_and_no_lock",
        "integration/test_results.py::test_large_arguments_and_results_arrive_whole",
    ),
    "stop of the server": (
        "integration/test_server_death.py::test_workers_finish_what_they_have_while_no_server_lives",
        "cluster/test_dispatches.py::test_a_dispatch_survives_the_death_of_its_server",
    ),
    "object store": ("integration/test_files.py::test_a_large_file_and_a_large_result_that_are_cut_go_on_at_the_byte",),
    "migrations": (
        "unit/test_store_file.py::test_a_file_of_the_first_schema_is_brought_up_to_date_with_all_that_it_holds",
    ),
    # Executors
    "plugins by entry point": ("integration/test_packaging.py::test_the_executors_are_found_by_their_entry_points",),
    "`ct.executor.BaseExecutor`": (
        "integration/test_executors.py::test_the_executor_that_the_page_writes_runs_tasks_and_the_server_keeps_what_it_says_of_itself",
        "integration/test_executors.py::test_an_asynchronous_executor_tidies_up_after_failures_and_is_told_of_a_cancel",
    ),
    "managed API": ("integration/test_executors.py::test_an_executor_without_a_run_is_refused_where_it_is_used",),
    "`RemoteExecutor`": (
        "integration/test_executors.py::test_an_executor_of_a_host_that_nobody_described_is_refused_with_the_command_that_does",
    ),
    "`ct.executor.LocalExecutor`": ("integration/test_executors.py::test_a_local_executors_folders_and_retries_act",),
    "`ct.executor.DaskExecutor`": (
        "unit/test_executors.py::test_what_means_nothing_is_said_once_for_each_argument_and_silence_is_kept_of_the_rest",
    ),
    "`ct.executor.SlurmExecutor`": (
        "unit/test_executors.py::test_slurm_executors_say_what_sbatch_would_be_told_and_by_which_login",
        "unit/test_executors.py::test_options_of_pbs_and_lsf_are_arguments_of_their_commands",
        "cluster/test_executors.py::test_a_slurm_executors_arguments_reach_its_jobs",
    ),
    "`ct.executor.SSHExecutor`": (
        "unit/test_executors.py::test_an_ssh_executor_needs_a_machine",
        "cluster/test_ssh.py::test_after_one_login_the_clusters_user_runs_the_tasks_over_one_connection",
    ),
    "`ct.executor.HPCExecutor`": (
        "unit/test_executors.py::test_psijs_words_become_annotations",
        "cluster/test_executors.py::test_a_slurm_executors_arguments_reach_its_jobs",
    ),
}


def rows() -> list[str]:
    """Return the first cell of each row of the page's tables."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [line.strip("|").split(" | ")[0].strip() for line in lines if not line.startswith("| Covalent |")]


def of_the_row(row: str) -> list[str]:
    return [beginning for beginning in TESTS if row.startswith(beginning)]


@cache
def written_in(file: str) -> frozenset[str]:
    return frozenset(re.findall(r"^(?:async )?def (test_\w+)", (ROOT / "tests" / file).read_text(), re.MULTILINE))


def test_every_name_of_covalents_that_the_page_names_is_there() -> None:
    names = set(re.findall(r"\bct\.([A-Za-z_][\w.]*)", PAGE.read_text()))
    assert {"electron", "executor.SlurmExecutor", "fs.FileTransfer", "triggers.TimeTrigger"} <= names
    assert [name for name in sorted(names) if attrgetter(name)(hpcflow) is None] == []


@pytest.mark.parametrize("row", rows())
def test_each_row_has_tests_and_they_exist(row: str) -> None:
    (beginning,) = of_the_row(row)
    for test in TESTS[beginning]:
        file, _, name = test.partition("::")
        assert name in written_in(file), test


def test_no_row_is_told_of_that_the_page_has_not() -> None:
    known = {beginning for row in rows() for beginning in of_the_row(row)}
    assert set(TESTS) == known
