"""The HTML report: it shows the numbers of the run, escapes all text and loads nothing from outside."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from tiny import mixed_space

from nas.architecture import Architecture, Layer
from nas.budget import Budget
from nas.device import Device
from nas.errors import NasError
from nas.report.architecture_drawing import (
    architecture_drawing,
    architectures_picture,
    method_class,
    methods_legend,
    methods_of,
)
from nas.report.contents import Contents
from nas.report.front_chart import front_picture
from nas.report.loading import snippets
from nas.report.numbers import duration, limits, points, significant
from nas.report.page import render as render_page
from nas.report.svg import AxisScale
from nas.space import Shape
from nas.tasks import task_kind

KIND = task_kind("classification")
FILES = ["modeling_compact_bert.py", "infer.py"]

TEACHER = Shape(num_hidden_layers=3, hidden_size=32, num_attention_heads=4, intermediate_size=64)
BUDGETS = (Budget(name="half", device="laptop", p50_ms="50%"), Budget(name="light", device="laptop", size_mb=1.5))
RANKING = {
    "architectures": 3,
    "steps": 500,
    "kendall_tau": 0.94,
    "low": 0.87,
    "high": 0.99,
    "kendall_tau_params": 0.85,
    "rows": [
        {"description": f"h{size}", "inherited": 0.7 + size / 1e3, "tuned": 0.75 + size / 1e3} for size in (1, 20, 30)
    ],
}
HOSTILE = "<script>alert('&')</script>"


def render(contents):
    """Return the page with all white space normalised, because the templates break lines anywhere."""
    return " ".join(render_page(contents).split())


def _candidate(number, description=None):
    layers = (Layer(0, 1 + number % 4, 24, "int8"), Layer(2, 4, 64, feed_forward="int8"))
    architecture = Architecture(24, layers[: 1 + number % 2])
    return {
        "digest": f"digest-{number}",
        "description": description or architecture.describe(),
        "architecture": architecture.to_json(),
        "search_accuracy": 0.70 + 0.01 * number,
        "predicted_ms": {"laptop": 1.0 + 0.3 * number},
        "size_mb": 1.25,
        "params": 123_456,
    }


def _front(count=12):
    candidates = [_candidate(number) for number in range(count)]
    measured = candidates[-2] | {"p50_ms": 4.1, "p95_ms": 4.4, "teacher_p50_ms": 9.0, "met": True}
    candidates[0]["stopped_after"] = 40
    uniform = _candidate(1) | {
        "search_accuracy": 0.765,
        "p50_ms": 4.0,
        "teacher_p50_ms": 9.0,
        "met": True,
        "measured": True,
    }
    return {
        "outcomes": {"evaluated": count, "over_budget": 5},
        "search_examples": 1887,
        "teacher_search_accuracy": 0.83,
        "uniform": {"half": uniform, "light": None},
        "importance": {"layers": 0.7, "attention_2": 0.25, "hidden_size": 0.049, "embedding": 0.001},
        "teacher_p50_ms": {"laptop": 9.0},
        "front": candidates[-4:],
        "candidates": candidates,
        "budgets": {"half": [measured]},
    }


def _verification(candidate=None, **changed):
    found = {
        "accuracy": 0.8125,
        "accuracy_standard_error": 0.0117,
        "teacher_accuracy": 0.8333,
        "p50_ms": 4.123,
        "p95_ms": 4.567,
        "teacher_p50_ms": 9.0,
        "speed_up": 2.18,
        "budget": None,
        "met": True,
        "size_mb": 1.29,
        "params": 123_456,
        "latency": {"device": Device(name="laptop").model_dump()},
        "environment": {"processor": "A processor", "runtime_version": "1.2.3"},
    }
    if candidate:
        found |= {
            "budget": BUDGETS[0].model_dump(exclude_none=True),
            "search_accuracy": 0.815,
            "search_accuracy_inherited": candidate["search_accuracy"],
            "predicted_ms": candidate["predicted_ms"],
            "architecture": candidate["architecture"],
            "description": candidate["description"],
        }
    return found | changed


def _contents(**changed):
    front = _front()
    whole = {
        "study": "a-study",
        "metric": "accuracy",
        "teacher": TEACHER,
        "devices": (Device(name="laptop"),),
        "budgets": BUDGETS,
        "front": front,
        "baselines": {"laptop/teacher": _verification(p50_ms=9.0, speed_up=1.0, params=999_888)},
        "exports": {"half": _verification(front["candidates"][-2])},
        "snippets": {
            "half": snippets("runs/a-study/exports/half", ["modeling_compact_bert.py", "infer.py"], False, KIND)
        },
        "profiles": {
            "laptop": {
                "teacher": {"p50_ms": 9.0},
                "error": {"mape": 0.0213, "worst": 0.0617, "kendall_tau": 0.955, "networks": 3},
                "held_out": [{"predicted_ms": value, "measured_ms": 1.02 * value} for value in (2.0, 3.0, 4.0)],
            }
        },
        "supernet_log": [{"step": 20, "loss": 0.9}, {"step": 40, "loss": 0.5}, {"train_runtime": 3.0}],
        "seeds": {
            "half": {
                "metric": "accuracy",
                "seeds": [0, 1],
                "accuracies": [0.9, 0.88],
                "mean": 0.89,
                "standard_error": 0.01,
            }
        },
        "export_logs": {"half": [{"step": step, "eval_accuracy": 0.8 + step / 1e4} for step in (10, 20)]},
        "rank_correlation": RANKING,
        "seconds": {"supernet": 192.0, "data": 3.0},
    }
    return Contents(**whole | changed)


def _count(page, class_):
    """Count the marks of a class outside the legends, which are drawings of 16 by 16."""
    return len(re.findall(rf'class="{class_}[" ]', re.sub(r'<svg viewBox="0 0 16 16".*?</svg>', "", page)))


def test_measured_values_of_limited_metrics_are_shown():
    limited = {"name": "half", "limits": [{"device": "laptop", "p50_ms": "50%", "expected_ms": 3.5, "worst_ms": "60%"}]}
    candidate = _front()["candidates"][-2]
    found = _verification(candidate, budget=limited, expected_ms=3.21, worst_ms=5.12)
    page = render(_contents(exports={"half": found}))
    assert page.count("mean 3.21 ms, longest texts 5.12 ms") == 2  # on the card and in the table


def test_drawings_show_exits_and_distinguish_all_compression_methods():
    specs = ("none", "int8", "int4", "low_rank(4)", "low_rank(8)", "sparse(0.5)", "sparse(2:4)")
    layers = tuple(Layer(0, 1, 8, choice, "none") for choice in specs)
    drawn = [Architecture(32, layers, exit_threshold=0.9)]
    choices = methods_of(drawn)
    assert len(set(re.findall(r"choice-\d", str(methods_legend(choices))))) == len(choices) == 7
    shape = Shape(num_hidden_layers=1, hidden_size=32, num_attention_heads=4, intermediate_size=64)
    assert "exit at 0.9" in architecture_drawing(drawn[0], shape, choices, "label")


def test_compressed_blocks_never_have_the_colour_of_uncompressed_blocks():
    specs = ("int8", "int4", *(f"low_rank({rank})" for rank in range(1, 9)))
    assert method_class("none", ("none", *specs)) == "choice-0"
    for choices in (("int8",), specs, ("none", *specs)):
        found = [method_class(choice, choices) for choice in choices if choice != "none"]
        assert "choice-0" not in found and found[0] == "choice-1" and len(set(found)) == min(len(found), 8)


def test_the_numbers_of_the_run_are_on_the_page():
    page = render(_contents())
    for figure in ("0.8125 ± 0.0117", "4.12 ms", "p95 4.57 ms", "2.2", "1.29 MB", "123,456", "999,888"):
        assert figure in page
    for figure in ("2.1 %", "6.2 %", "0.955", "3 min", "p50 ≤ 4.50 ms = 50% of the teacher", "✓ met"):
        assert figure in page
    assert "A processor" in page and "onnxruntime 1.2.3" in page
    assert "No export yet for light" in page
    assert "runs/a-study/exports/half/infer.py" in page


def test_each_label_has_its_f1_and_its_loss_and_the_most_frequent_label_comes_first():
    def labels(**f1):
        rows = {"joy": 40.0, HOSTILE: 90.0}
        return {name: {"precision": 0.5, "recall": 0.5, "f1": f1[key], "rows": rows[name]}
                for name, key in (("joy", "joy"), (HOSTILE, "hostile"))}  # fmt: skip

    front = _front()
    page = render(
        _contents(
            baselines={"laptop/teacher": _verification(labels=labels(joy=0.8, hostile=0.6))},
            exports={"half": _verification(front["candidates"][-2], labels=labels(joy=0.75, hostile=0.625))},
        )
    )
    section = page[page.index("F1 per label") :]
    section = section[: section.index("</section>")]
    assert section.index("&lt;script&gt;") < section.index("joy") and HOSTILE not in page
    assert all(
        shown in section
        for shown in (">90<", ">40<", "0.8000", "0.7500", "0.6000", "0.6250", "\N{MINUS SIGN}5.0 points", "+2.5 points")
    )
    assert "F1 per label" not in render(_contents())


def test_an_example_query_is_shown_with_its_passages_in_the_teacher_s_order():
    def shown(*outputs):
        return {str(row): {"output": [value], "label": int(row == 4)} for row, value in enumerate(outputs, start=3)}

    page = render(
        _contents(
            baselines={"laptop/teacher": _verification(shown=shown(0.5, 2.0, -1.0))},
            exports={"half": _verification(_front()["candidates"][-2], shown=shown(1.25, 0.75, -2.0))},
            sample={"3": ["who?", "nobody"], "4": ["who?", HOSTILE], "5": ["who?", "when"], "9": ["what?", "that"]},
        )
    )
    section = page[page.index("Example query") :]
    section = section[: section.index("</section>")]
    assert section.count("who?") == 1 and "what?" not in section and HOSTILE not in page
    rows = [re.sub("<[^>]+>", " ", row).split() for row in section[section.index("<tbody>") :].split("</tr>")[:3]]
    assert [row[-5:] for row in rows] == [
        ["1", "1", "2.00", "2", "0.75"],
        ["0", "2", "0.50", "1", "1.25"],
        ["0", "3", "-1.00", "3", "-2.00"],
    ]
    assert rows[1][0] == "nobody" and "Example query" not in render(_contents())


@pytest.mark.parametrize("count", [1, 2, 12, 60])
def test_every_candidate_is_a_dot(count):
    front = _front(max(count, 2))
    front["candidates"] = front["candidates"][:count]
    page = render(_contents(front=front))
    assert _count(page, "candidate") == count


def test_candidates_far_below_the_others_are_still_shown():
    front = _front()
    front["candidates"][1]["search_accuracy"] = 0.01
    page = render(_contents(front=front))
    assert _count(page, "candidate") == 12
    assert _count(page, "candidate below") == 1


def test_measured_and_exported_candidates_are_marked():
    page = render(_contents())
    assert _count(page, "ring") == 1
    assert len(re.findall(r'<path [^>]*class="export"[^>]*tabindex', page)) == 1
    assert len(re.findall(r'<line [^>]*class="budget"', page)) == 1, "a budget without latency has no line"
    assert len(re.findall(r'<line [^>]*class="teacher"', page)) == 1


def test_stopped_candidates_and_uniform_networks_have_marks_of_their_own():
    page = render(_contents())
    assert _count(page, "candidate raced") == 1 and "estimated after 40 texts" in page
    assert _count(page, "uniform") == 1 and _count(page, "teacher-dot") == 1
    assert "+3.5 points" in page, "0.80 for the candidate and 0.765 for the uniform network"
    assert "layer 2: 4 heads, feed-forward 64 int8" in page, "the tooltip describes the architecture in words"


def test_predicted_latencies_are_not_called_measured():
    page, front = render(_contents()), _front()
    assert "p50 latency, measured in the same way" in page and "predicted</small>" not in page
    for item in (front["uniform"]["half"], front["budgets"]["half"][0]):
        item["measured"] = False
    page = render(_contents(front=front))
    assert "p50 latency, measured unless it is marked as predicted" in page
    assert page.count("4.10 ms predicted") == page.count("4.00 ms predicted") == 1


def test_each_network_of_the_front_has_a_row_with_a_drawing():
    page = render(_contents())
    table = page[page.index('<table class="front">') : page.index("The exported architectures")]
    rows = re.findall("<tr>.*?</tr>", table[table.index("<tbody>") :])
    assert len(rows) == 4
    assert [len(re.findall('class="gone"', row)) for row in rows] == [2, 1, 2, 1]


def test_dimensions_are_named_in_words():
    page = render(_contents())
    for name in ("which layers are kept", "attention, layer 2", "hidden size", "70.0 %"):
        assert name in page
    assert "0.1 %" not in page


def test_a_single_candidate_s_export_has_no_budget():
    found = _verification(_candidate(9), budget=None)
    page = render(_contents(exports={"trial-7": found}, snippets={"trial-7": snippets("trial-7", [], False, KIND)}))
    assert "single candidate, exported without a budget" in page and "exported as trial-7" in page
    assert "✓ met" not in page


def test_dropped_layers_and_heads_are_drawn():
    page = render(_contents())
    page = page[page.index("The exported architectures") :]
    kept = {layer["source"] for layer in _candidate(10)["architecture"]["layers"]}
    assert _count(page, "gone") == TEACHER.num_hidden_layers - len(kept)
    assert "3 of 4 · int8" in page and "24 of 64" in page and "hidden size 24 of 32" in page


def test_names_are_escaped():
    front = _front()
    front["candidates"][3] = _candidate(3, HOSTILE)
    exports = {HOSTILE: _verification(_candidate(4, HOSTILE))}
    loaded = {HOSTILE: snippets(HOSTILE, [], True, KIND)}
    logged = _contents(
        study=HOSTILE,
        metric=HOSTILE,
        front=front,
        exports=exports,
        snippets=loaded,
        seconds={HOSTILE: 1.0},
    )
    page = render(logged)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert page.count("<script") == 1
    assert "<script" not in front_picture(logged, "laptop")


def test_the_page_loads_nothing_from_outside():
    page = render(_contents())
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import|<link|<iframe""", page)
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) <= {"http://www.w3.org/2000/svg"}


def test_drawings_and_pictures_are_well_formed():
    page = render(_contents())
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) >= 4
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    named = {"half": Architecture.from_json(_candidate(9)["architecture"])}
    for picture in (front_picture(_contents(), "laptop"), architectures_picture(named, TEACHER, "a label")):
        ElementTree.fromstring(picture)
        assert "var(" not in picture and "nan" not in picture


@pytest.mark.parametrize(
    ("missing", "title"),
    [
        ({"front": None}, "The Pareto front"),
        ({"exports": {}, "baselines": {}}, "Results"),
        ({"exports": {}}, "The exported architectures"),
        ({"profiles": {}}, "Predicted and measured latency"),
        ({"supernet_log": [], "export_logs": {}}, "Training"),
        ({"export_logs": {}}, "Accuracy during training: Export half"),
        ({"rank_correlation": None}, "Rank correlation"),
        ({"front": _front() | {"importance": {}}}, "Dimensions that affect accuracy"),
        ({"front": _front() | {"uniform": {"half": None}}}, "Gain over uniform networks"),
        ({"seeds": {}}, "Several seeds"),
        ({"seconds": {}}, "Time per step"),
        ({"snippets": {}}, "How to load an export"),
    ],
)
def test_sections_without_content_are_left_out(missing, title):
    assert title in render(_contents())
    assert title not in render(_contents(**missing))


def test_several_seeds_are_shown_with_each_accuracy_and_the_standard_error():
    assert "0.8900 ± 0.0100 (0.9000, 0.8800)" in render(_contents())


@pytest.mark.parametrize(("accuracy", "is_shown"), [(0.8230, True), (0.8010, True), (0.8000, False)])
def test_results_begin_with_a_warning_if_the_static_model_is_as_good_as_an_export(accuracy, is_shown):
    """The export has 0.8125, and the standard error is 0.0117."""
    static = _verification(accuracy=accuracy, p50_ms=0.012, size_mb=0.24)
    page = render(_contents(baselines=_contents().baselines | {"laptop/static": static}))
    words = f"averaged token embeddings has a test score of {accuracy:.4f} ± 0.0117, a latency of 0.0120 ms"
    assert "static: averaged token embeddings" in page and (words in page) == is_shown
    if is_shown:
        assert page.index(words) < page.index("budget: ") and "standard error: half (0.8125)" in page


def test_an_accuracy_floor_is_a_line_in_the_chart_and_is_described_in_words():
    floor = Budget(name="kept", device="laptop", accuracy_loss=1.5)
    known = {"least": 0.80, "teacher": 0.815, "sure": 0.82, "minimise": "p50_ms", "device": "laptop"}
    front = _front() | {"floors": {"kept": known}}
    budget = floor.model_dump(mode="json", exclude_none=True)
    export = _verification(
        front["candidates"][-2], budget=budget, floor=0.80, search_accuracy=0.807, teacher_search_accuracy=0.815
    )
    page = render(_contents(front=front, budgets=(*BUDGETS, floor), exports={"kept": export}))
    assert "kept: accuracy 0.8000" in page and "kept: accuracy" not in render(_contents())
    assert "accuracy floor on the search set: 0.8000; this network has 0.8070, the teacher 0.8150" in page
    assert "accuracy at most 1.5 points below the teacher&#39;s, minimum p50" in page and "100% of" not in page
    ElementTree.fromstring(front_picture(_contents(front=front, budgets=(floor,)), "laptop"))


def test_a_run_without_results_is_an_error_that_names_the_command_to_run():
    with pytest.raises(NasError, match="run `nas search`"):
        render(Contents(study="a-study", metric="accuracy", teacher=TEACHER))


def test_a_device_that_was_added_after_the_search_has_no_chart():
    page = render(_contents(devices=(Device(name="laptop"), Device(name="phone"))))
    assert _count(page, "candidate") == 12


def test_each_device_has_its_own_chart():
    front = _front()
    for item in front["candidates"]:
        item["predicted_ms"]["phone"] = 8.0 * item["predicted_ms"]["laptop"]
    front["teacher_p50_ms"]["phone"] = 72.0
    page = render(_contents(front=front, devices=(Device(name="laptop"), Device(name="phone"))))
    assert _count(page, "candidate") == 24
    assert "teacher on laptop" in page


def test_an_export_is_shown_only_in_the_charts_of_devices_on_which_it_was_measured():
    whole = _contents()
    budget = Budget(name="half", limits=[{"device": name, "p50_ms": "50%"} for name in ("laptop", "phone")])
    front = _front()
    front["teacher_p50_ms"]["phone"] = 72.0
    for item in front["candidates"]:
        item["predicted_ms"]["phone"] = 8.0
    profiles = dict.fromkeys(("laptop", "phone"), whole.profiles["laptop"])
    page = render(
        _contents(
            front=front,
            exports={name: found | {"device": "laptop"} for name, found in whole.exports.items()},
            devices=(Device(name="laptop"), Device(name="phone")),
            budgets=(budget,),
            profiles=profiles,
        )
    )
    assert len(re.findall(r'<path [^>]*class="export"[^>]*tabindex', page)) == 1


@pytest.mark.parametrize(
    ("values", "ticks"),
    [((0.0, 1.0), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), ((1.0, 40.0), [1, 2, 5, 10, 20]), ((3.0,), None)],
)
def test_an_axis_has_round_ticks_within_its_range(values, ticks):
    scale = AxisScale.around(values, 0.0, 100.0)
    assert ticks is None or scale.ticks() == ticks
    assert len(scale.ticks()) >= 2
    assert all(0.0 <= scale(value) <= 100.0 for value in (*values, *scale.ticks()))


def test_numbers_have_units_and_a_sensible_number_of_digits():
    assert [significant(value) for value in (0.04817, 3.14159, 33.44, 12345.6)] == ["0.0482", "3.14", "33.4", "12,346"]
    assert [duration(value) for value in (44, 192, 3900)] == ["44 s", "3 min", "1 h 05 min"]
    assert [points(value) for value in (0.0, 0.012)] == ["±0.0 points", "+1.2 points"]
    assert points(-0.008) == "\N{MINUS SIGN}0.8 points"
    budget = Budget(name="tight", device="laptop", p50_ms=4.0, size_mb=20.0, params=1_000_000)
    assert limits(budget, {}) == ["p50 ≤ 4.00 ms", "size ≤ 20.0 MB", "parameters ≤ 1,000,000"]


def test_drawings_show_blocks_that_share_weights_or_are_skipped():
    space = mixed_space()
    first, second, third = space.largest().layers
    layers = (
        replace(first, attention="int8", keep_tokens=5),
        replace(second, attention="share", num_attention_heads=0),
        replace(third, feed_forward="skip", intermediate_size=0),
    )
    architecture = replace(space.largest(), layers=layers)
    choices = methods_of([architecture])
    drawing = architecture_drawing(architecture, space.teacher, choices, "drawing")
    ElementTree.fromstring(drawing)
    assert choices == ["none", "int8", "share"]
    assert drawing.count("skipped") == 1 and "5 tokens" in drawing
    assert "Layer 1: attention heads 4 of 4, shares the weights of a lower layer" in drawing
