import pytest

from pilotlight_platform.engine.chat import encode_messages
from pilotlight_platform.errors import InvalidRequestError

MESSAGES = [{"role": "user", "content": "the fox"}]


@pytest.fixture
def templated(tokenizer):
    """The shared tokenizer with a chat template, taken away again at the end."""

    def use(template):
        tokenizer.chat_template = template
        return tokenizer

    yield use
    tokenizer.chat_template = None


def test_template_writes_the_prompt(templated):
    tokenizer = templated(
        "{% for m in messages %}<bos>{{ m.role }}|{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}|assistant{% endif %}"
    )

    ids = encode_messages(tokenizer, MESSAGES)

    assert tokenizer.decode(ids) == "<bos>user|the fox|assistant"
    assert ids.count(0) == 1


def test_base_model_gets_plain_lines(tokenizer):
    ids = encode_messages(tokenizer, [{"role": "system", "content": "be kind"}, *MESSAGES])

    assert tokenizer.decode(ids) == "system: be kind\nuser: the fox\nassistant:"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content + 1 }}", "str"),
        ("{{ messages[3].content.x }}", "undefined|no element"),
        ("{% for %}", "Expected"),
    ],
)
def test_template_that_fails_names_its_reason(templated, template, message):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        encode_messages(templated(template), MESSAGES)

    assert caught.value.param == "messages"


def test_no_messages_are_refused(tokenizer):
    with pytest.raises(InvalidRequestError, match="empty"):
        encode_messages(tokenizer, [])


def test_chat_runs_end_to_end(attach, submit):
    replica = attach("llama")

    answer = submit(replica, MESSAGES).finish()

    prompt = replica.skeleton.tokenizer("user: the fox\nassistant:")["input_ids"]
    assert answer.chunks[0].prompt_tokens == len(prompt)
    assert answer.tokens == submit(replica, prompt).finish().tokens
