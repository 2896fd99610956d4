"""Access logs become traces; what cannot be read is refused with its line."""

import pytest

from pilotlight_autoscaler.simulation.errors import TraceError
from pilotlight_autoscaler.simulation.readers import MAX_LINE_CHARACTERS, read_trace

AZURE_LLM = [
    "TIMESTAMP,ContextTokens,GeneratedTokens\n",
    "2023-11-16 18:15:46.6805900,374,44\n",
    "2023-11-16 18:15:50.9951690,400,100\n",
]


def test_read_csv_takes_the_azure_llm_trace_as_it_is() -> None:
    trace = read_trace(AZURE_LLM, "csv", default_model="chat")

    assert trace.names == ("chat",)
    assert list(trace.arrival_us) == [0, 4_314_579]
    assert trace.first_token_us[1] == 50_000  # 400 tokens at 8,000 a second
    assert trace.service_us[1] == 2_050_000  # and 100 tokens at 50 a second


def test_read_csv_takes_azure_functions_that_tell_the_end() -> None:
    lines = ["app,func,end_timestamp,duration\n", "a,f,10.0,4.0\n", "b,f,9.0,1.0\n"]

    trace = read_trace(lines, "csv")

    assert trace.names == ("a", "b")
    assert list(trace.arrival_us) == [0, 2_000_000]


def test_read_jsonl_sorts_by_arrival() -> None:
    lines = [
        '{"time": 20, "model": "b", "duration_s": 1}\n',
        '{"time": 10.5, "model": "a", "input_tokens": 80, "output_tokens": 50}\n',
    ]

    trace = read_trace(lines, "jsonl")

    assert [trace.names[index] for index in trace.model] == ["a", "b"]
    assert list(trace.arrival_us) == [0, 9_500_000]


def test_read_clf_counts_only_what_wakes_a_model() -> None:
    begin = '10.0.0.1 - - [10/Oct/2024:13:55:36 -0700] "'
    lines = [
        begin + 'POST /models/a/v1/chat/completions HTTP/1.1" 200 2326\n',
        begin + 'GET /models/a/v1/models HTTP/1.1" 200 10\n',
        begin + 'POST /models/b/v1/completions HTTP/1.1" 401 10\n',
        begin + 'POST /v1/chat/completions HTTP/1.1" 200 10 "-" "curl/8" 2.5\n',
    ]

    trace = read_trace(lines, "clf", default_model="any")

    assert trace.names == ("a", "any")
    assert list(trace.service_us) == [1_000_000, 2_500_000]


@pytest.mark.parametrize(
    ("form", "lines", "message"),
    [
        ("csv", ["model\n", "a\n"], "line 1: no column of time"),
        ("csv", ["time,model\n", "1,a\n", "1\n"], "line 3: 1 values for 2 columns"),
        ("csv", ["time\n", "soon\n"], "line 2: time: 'soon' is neither seconds nor ISO 8601"),
        ("csv", ["time\n", "nan\n"], "line 2: time: 'nan' is not a time"),
        ("csv", ["time,duration_s\n", "1,-2\n"], "line 2: duration_s: '-2' is negative"),
        ("csv", ["time,duration_s\n", "1,1e9\n"], "line 2: a request takes 0 to 86400 s"),
        ("jsonl", ['{"time": 1}\n', "[1]\n"], "line 2: not a JSON object"),
        ("jsonl", ["{\n"], "line 1: not JSON"),
        ("clf", ["hello\n"], "line 1: not Common Log Format"),
        ("csv", ["time\n", "1" * (MAX_LINE_CHARACTERS + 1)], "line 2: longer than"),
        ("csv", ["time\n"], "no request in the trace"),
    ],
)
def test_read_refuses_with_the_line(form: str, lines: list[str], message: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_trace(lines, form)

    assert message in str(caught.value)


def test_read_refuses_more_requests_and_models_than_allowed() -> None:
    lines = ["time,model\n", "1,a\n", "2,b\n"]

    with pytest.raises(TraceError, match="line 3: more than 1 requests"):
        read_trace(lines, "csv", max_requests=1)
    with pytest.raises(TraceError, match="line 3: more than 1 models"):
        read_trace(lines, "csv", max_models=1)
