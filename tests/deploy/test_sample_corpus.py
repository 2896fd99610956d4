"""Which text is trained on, and which is held out."""

import subprocess
import sys

import pytest

from pilotlight_deploy.sample_corpus import (
    SourceFile,
    corpus_digest,
    encode,
    held_out,
    is_held_out,
    read_corpus,
    standard_library,
    trained_on,
)


@pytest.fixture(scope="module")
def files():
    return read_corpus(standard_library())


def write(library, *paths, content=b"x = 1\n"):
    for path in paths:
        file = library / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def test_corpus_is_sorted_by_path(tmp_path):
    write(tmp_path, "b.py", "a/z.py", "a.py", "a/b/c.py")

    assert [file.path for file in read_corpus(tmp_path)] == ["a.py", "a/b/c.py", "a/z.py", "b.py"]


@pytest.mark.parametrize(
    "path",
    [
        "site-packages/torch/__init__.py",
        "test/test_os.py",
        "unittest/test/support.py",
        "encodings/cp437.py",
        "pydoc_data/topics.py",
        "config-3.11-x86_64-linux-gnu/python-config.py",
        "_sysconfigdata__linux_x86_64-linux-gnu.py",
        "sitecustomize.py",
        "lib2to3/Grammar.txt",
    ],
)
def test_corpus_leaves_out_what_is_not_the_library(tmp_path, path):
    write(tmp_path, path, "os.py")

    assert [file.path for file in read_corpus(tmp_path)] == ["os.py"]


def test_corpus_leaves_out_what_is_not_utf8(tmp_path):
    write(tmp_path, "latin.py", content=b"# \xe9")

    assert read_corpus(tmp_path) == []


def test_split_is_whole_and_disjoint(files):
    kept, learned = held_out(files), trained_on(files)

    assert sorted([*kept, *learned], key=lambda file: file.path) == files
    assert {file.path for file in kept}.isdisjoint(file.path for file in learned)


def test_split_holds_out_a_sixteenth_of_the_paths():
    paths = [f"package/module_{number}.py" for number in range(16_000)]

    assert sum(map(is_held_out, paths)) == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize(("path", "expected"), [("pathlib.py", True), ("os.py", False)])
def test_split_never_changes(path, expected):
    """The committed weights were not trained on what the rule holds out."""
    assert is_held_out(path) is expected


def test_corpus_and_split_are_the_same_in_another_process(files):
    script = (
        "from pilotlight_deploy.sample_corpus import *\n"
        "print(corpus_digest(held_out(read_corpus(standard_library()))))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )

    assert answer.stdout.strip() == corpus_digest(held_out(files))


def test_digest_tells_a_path_from_its_text():
    one, other = [SourceFile("a", "bc")], [SourceFile("ab", "c")]

    assert corpus_digest(one) != corpus_digest(other)


def test_encode_marks_where_files_begin_and_end():
    files = [SourceFile("a", "ab"), SourceFile("b", "c")]

    assert encode(lambda text: [ord(letter) for letter in text], files, 0, 1) == [
        *(0, 97, 98, 1),
        *(0, 99, 1),
    ]
