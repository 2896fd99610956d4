from __future__ import annotations

import threading
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from moto.server import ThreadedMotoServer
from support.object_server import answer
from support.reading import DATA, checkpoint_files, read

from pilotlight_loader.checkpoint import open_checkpoint
from pilotlight_loader.errors import (
    AccessDeniedError,
    LocationError,
    ObjectChangedError,
    ObjectMissingError,
    SourceReadError,
)
from pilotlight_loader.sources import s3
from pilotlight_loader.sources.location import parse_location
from pilotlight_loader.sources.s3 import S3Options, S3Store
from pilotlight_loader.sources.s3_clients import S3Clients, make_client


@pytest.fixture(scope="module")
def endpoint():
    """A real S3 server on loopback."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def credentials(monkeypatch, tmp_path):
    """Keys by environment, and a profile with others; nothing of this machine."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text(
        "[profile other]\naws_access_key_id = OTHERKEY\naws_secret_access_key = s\n"
    )
    for name, value in {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "absent"),
        "AWS_ACCESS_KEY_ID": "ENVKEY",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(endpoint):
    """An empty bucket with a name of its own, and its boto3 client."""
    client = boto3.client("s3", endpoint_url=endpoint)
    name = f"bucket-{len(client.list_buckets()['Buckets'])}"
    client.create_bucket(Bucket=name)
    yield client, name
    client.close()


@pytest.fixture
def s3_store(endpoint, owned) -> Callable[..., S3Store]:
    def make(location: str, **options: object) -> S3Store:
        settings = {"endpoint_url": endpoint, **options}
        return owned.enter_context(S3Store(parse_location(location), S3Options(**settings)))

    return make


@pytest.fixture
def fake_store(server, s3_store) -> Callable[..., S3Store]:
    """A store of the programmable server: it takes any signature, and records the requests."""
    server.put("/bucket/model/blob", DATA)

    def make(**options: object) -> S3Store:
        return s3_store("s3://bucket/model", endpoint_url=server.url, **options)

    return make


def query(path: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}


def test_s3_reads_a_range(bucket, s3_store):
    client, name = bucket
    client.put_object(Bucket=name, Key="model/blob", Body=DATA)
    source = s3_store(f"s3://{name}/model").open("blob")

    assert source.version.nbytes == len(DATA)
    assert read(source, 1000, 5000) == DATA[1000:6000]


def test_s3_reads_at_the_root_of_a_bucket(bucket, s3_store):
    client, name = bucket
    client.put_object(Bucket=name, Key="blob", Body=DATA)

    assert read(s3_store(f"s3://{name}").open("blob"), 5, 5) == DATA[5:10]


def test_s3_reads_keys_that_no_url_would_hold(bucket, s3_store):
    client, name = bucket
    client.put_object(Bucket=name, Key="a b/50%?#+ü/blob", Body=DATA)

    assert read(s3_store(f"s3://{name}/a b/50%?#+ü").open("blob"), 5, 5) == DATA[5:10]


def test_s3_empty_object_has_no_bytes(bucket, s3_store):
    client, name = bucket
    client.put_object(Bucket=name, Key="empty", Body=b"")

    assert s3_store(f"s3://{name}").open("empty").version.nbytes == 0


def test_s3_object_that_is_not_there_is_missing(bucket, s3_store):
    with pytest.raises(ObjectMissingError, match="404 NoSuchKey"):
        s3_store(f"s3://{bucket[1]}").open("absent")


def test_s3_changed_object_is_an_error(bucket, s3_store):
    client, name = bucket
    client.put_object(Bucket=name, Key="blob", Body=DATA)
    source = s3_store(f"s3://{name}").open("blob")
    client.put_object(Bucket=name, Key="blob", Body=b"x" * len(DATA))

    with pytest.raises(ObjectChangedError):
        read(source, 0, 10)


def test_s3_pinned_version_outlives_an_overwrite(bucket, s3_store):
    client, name = bucket
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    client.put_object(Bucket=name, Key="blob", Body=DATA)
    source = s3_store(f"s3://{name}").open("blob")
    client.put_object(Bucket=name, Key="blob", Body=b"x" * len(DATA))

    assert read(source, 5, 10) == DATA[5:15]


def test_s3_opens_a_checkpoint_under_a_prefix(bucket, endpoint):
    client, name = bucket
    for file, data in checkpoint_files().items():
        client.put_object(Bucket=name, Key=f"models/a/{file}", Body=data)
    with open_checkpoint(f"s3://{name}/models/a", S3Options(endpoint_url=endpoint)) as checkpoint:
        tensor = checkpoint.tensors["b"]
        data = read(checkpoint.source(checkpoint.file_of(tensor.name)), tensor.start, tensor.nbytes)

        assert checkpoint.files == ("one.safetensors", "weights/two.safetensors")
        assert checkpoint.side_files == ("config.json", "model.safetensors.index.json")
    assert data == b"\0\0\x80?" * 3


def test_s3_names_are_those_of_the_prefix_only(bucket, s3_store):
    client, name = bucket
    for key in ("a/", "a/one", "a/two", "a/deep/three", "ab", "b/four"):
        client.put_object(Bucket=name, Key=key, Body=b"")

    assert s3_store(f"s3://{name}/a").names() == ["one", "two"]


def test_s3_names_are_unknown_without_the_right_to_list(fake_store, server):
    server.always = answer(403, b"<Error><Code>AccessDenied</Code></Error>")

    assert fake_store().names() is None


# What is sent, seen by a server that believes everything.


def test_s3_signs_the_host_and_nothing_else(fake_store, server):
    read(fake_store().open("blob"), 3, 5)
    signed = query(server.requests[1].path)

    assert signed["X-Amz-SignedHeaders"] == "host"
    assert signed["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    assert server.requests[1].headers["range"] == "bytes=3-7"
    assert server.requests[1].headers["if-match"] == '"one"'
    assert server.requests[1].headers["host"] == f"127.0.0.1:{server.port}"


def test_s3_signs_with_the_environment(fake_store, server):
    fake_store().open("blob")

    assert query(server.requests[0].path)["X-Amz-Credential"].startswith("ENVKEY/")


def test_s3_signs_with_a_profile(fake_store, server):
    fake_store(profile="other").open("blob")

    assert query(server.requests[0].path)["X-Amz-Credential"].startswith("OTHERKEY/")


def test_s3_signs_for_a_region(fake_store, server):
    fake_store(region="eu-west-1").open("blob")

    assert "/eu-west-1/s3/" in query(server.requests[0].path)["X-Amz-Credential"]


def test_s3_anonymous_is_unsigned(fake_store, server):
    fake_store(anonymous=True).open("blob")

    assert server.requests[0].path == "/bucket/model/blob"


def test_s3_requester_pays_is_signed_and_sent(fake_store, server):
    fake_store(requester_pays=True).open("blob")

    assert server.requests[0].headers["x-amz-request-payer"] == "requester"
    assert query(server.requests[0].path)["X-Amz-SignedHeaders"] == "host;x-amz-request-payer"


def test_s3_pins_the_version_of_a_versioned_bucket(fake_store, server):
    server.put("/bucket/model/blob", DATA, x_amz_version_id="v7")
    read(fake_store().open("blob"), 0, 10)

    assert query(server.requests[1].path)["versionId"] == "v7"


def test_s3_reads_on_without_the_right_to_versions(fake_store, server):
    server.put("/bucket/model/blob", DATA, x_amz_version_id="v7")
    source = fake_store().open("blob")
    server.script("/bucket/model/blob", answer(403))

    assert read(source, 0, 10) == DATA[:10]
    assert "versionId" not in query(server.requests[-1].path)


def test_s3_pin_costs_no_byte_of_the_object(fake_store, server):
    fake_store().open("blob")

    assert [seen.method for seen in server.requests] == ["HEAD"]


def test_s3_head_that_is_refused_is_followed_by_a_get_of_one_byte(fake_store, server):
    server.heads["/bucket/model/blob"] = answer(403)
    source = fake_store().open("blob")

    assert source.version.nbytes == len(DATA)
    assert server.requests[1].headers["range"] == "bytes=0-0"


def test_s3_signature_is_used_again(fake_store, server):
    source = fake_store().open("blob")
    read(source, 0, 10)
    read(source, 10, 10)

    assert len({seen.path for seen in server.gets}) == 1


def test_s3_signature_that_grows_old_is_made_anew(fake_store, server, signatures, monkeypatch):
    monkeypatch.setattr(s3, "USED_S", 0)
    source = fake_store().open("blob")
    read(source, 0, 10)
    read(source, 10, 10)

    assert len(signatures) == 1 + 2  # a HEAD's, and the ranges'


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (400, "ExpiredToken"), (400, "RequestExpired")]
)  # what S3 says of an old URL, and of a role's old credentials
def test_s3_refused_signature_is_made_anew_once(fake_store, server, signatures, status, code):
    source = fake_store().open("blob")
    refusal = answer(status, f"<Error><Code>{code}</Code></Error>".encode())
    server.script("/bucket/model/blob", refusal)

    assert read(source, 0, 10) == DATA[:10]
    assert len(signatures) == 1 + 2  # a HEAD's, and the ranges'


def test_s3_second_refusal_is_an_error(fake_store, server, signatures):
    source = fake_store().open("blob")
    server.always = answer(403, b"<Error><Code>AccessDenied</Code></Error>")

    with pytest.raises(AccessDeniedError, match="403 AccessDenied"):
        read(source, 0, 10)
    assert len(signatures) == 1 + 2  # a HEAD's, and the ranges'


def test_s3_parallel_readers_share_one_new_signature(fake_store, server, signatures):
    source = fake_store().open("blob")
    together = threading.Barrier(4, timeout=10)

    def refuse(handler) -> None:
        together.wait()
        handler.send_status(403)

    server.script("/bucket/model/blob", *[refuse] * 4)
    threads = [threading.Thread(target=read, args=(source, 0, 10)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert len(signatures) == 1 + 2  # a HEAD's, and the ranges'
    assert len(server.gets) == 8


def test_s3_bucket_elsewhere_names_its_region(fake_store, server):
    server.always = answer(
        301, b"<Error><Code>PermanentRedirect</Code></Error>", x_amz_bucket_region="eu-west-1"
    )

    with pytest.raises(SourceReadError, match=r"PermanentRedirect.*eu-west-1, set this region"):
        fake_store().open("blob")


def test_s3_errors_repeat_no_signature(fake_store, server):
    with pytest.raises(ObjectMissingError) as caught:
        fake_store().open("absent")

    where = f"s3://bucket/model/absent#127.0.0.1:{server.port}"
    assert str(caught.value) == f"{where}: HTTP 404 Not Found"


def test_s3_checkpoint_opens_without_the_right_to_list(server):
    # S3 then says 403, not 404, of what is not there.
    for file, data in checkpoint_files().items():
        server.put(f"/bucket/a/{file}", data)
    server.always = lambda handler: (
        handler.send_object() if handler.stored() else handler.send_status(403)
    )
    with open_checkpoint("s3://bucket/a", S3Options(endpoint_url=server.url)) as checkpoint:
        side_files = checkpoint.side_files

    assert checkpoint.tensors.keys() == {"a", "b"}
    assert side_files == ("config.json", "model.safetensors.index.json")


def test_s3_checkpoint_that_is_denied_altogether_says_so(server):
    server.always = answer(403)

    with pytest.raises(AccessDeniedError):
        open_checkpoint("s3://bucket/a", S3Options(endpoint_url=server.url))


def test_s3_without_credentials_says_so(fake_store, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(AccessDeniedError, match=r"credentials.*anonymous=True"):
        fake_store().open("blob")


def test_s3_profile_that_is_not_there_is_a_location_error(s3_store):
    with pytest.raises(LocationError, match="absent"):
        s3_store("s3://bucket/a", profile="absent")


@pytest.fixture
def signatures(monkeypatch) -> list[str]:
    """Keys that were signed for, in order."""
    signed: list[str] = []
    real = make_client

    def client(*arguments):
        made = real(*arguments)
        presign = made.generate_presigned_url

        def counted(*args, **options):
            signed.append(options["Params"]["Key"])
            return presign(*args, **options)

        made.generate_presigned_url = counted
        return made

    monkeypatch.setattr(s3, "CLIENTS", S3Clients(client))
    return signed


def test_s3_stores_of_one_kind_share_their_client(fake_store):
    assert fake_store()._client is fake_store()._client


@pytest.mark.parametrize(
    ("status", "code", "is_shared"),
    [
        (403, "AccessDenied", True),  # so is a folder that is not for these keys
        (403, "SignatureDoesNotMatch", True),
        (400, "ExpiredToken", False),
        (403, "RequestExpired", False),
        (403, "InvalidAccessKeyId", False),
    ],
)
@pytest.mark.usefixtures("signatures")
def test_s3_client_is_forgotten_where_its_keys_may_have_expired(
    fake_store, server, status, code, is_shared
):
    store = fake_store()
    source = store.open("blob")
    refusal = answer(status, f"<Error><Code>{code}</Code></Error>".encode())
    server.script("/bucket/model/blob", refusal)
    read(source, 0, 10)

    assert (fake_store()._client is store._client) == is_shared


def test_s3_closed_store_leaves_the_client_to_the_others(bucket, s3_store):
    one, two = s3_store(f"s3://{bucket[1]}"), s3_store(f"s3://{bucket[1]}")
    one.close()

    assert two.names() == []
