"""Messages of errors."""

import pickle

import pytest

from lit_od.errors import BundleError, ConfigError, DataError, ImageError, LitODError, MissingExtra, without_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://KEY:SECRET@bucket/a.png cannot be listed", "s3://***@bucket/a.png cannot be listed"),
        ("Cannot parse URI: 's3://KEY:SEC/RET@bucket' at", "Cannot parse URI: 's3://***@bucket' at"),
        ("Cannot parse URI: 's3://KEY:SEC' at", "Cannot parse URI: 's3://***' at"),
        ("gs://TOKEN@bucket and s3://K:S@other", "gs://***@bucket and s3://***@other"),
        (
            "https://host/a.png?X-Amz-Credential=A/b&x=1&X-Amz-Signature=C is",
            "https://host/a.png?X-Amz-Credential=***&x=1&X-Amz-Signature=*** is",
        ),
        ("abfs://box/a?SIG=abc'", "abfs://box/a?SIG=***'"),
        *(
            (text, text)
            for text in (
                "s3://bucket/a@2x.png",
                "http://host:9000/a@2x.png",
                "http://host:8000",
                "me@there: no :// here@all",
            )
        ),
    ],
)
def test_credentials_are_not_repeated(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
    for kind in (LitODError, ConfigError, DataError, ImageError, BundleError, MissingExtra):
        assert str(kind(text)) == shown
        assert str(pickle.loads(pickle.dumps(kind(text)))) == shown  # noqa: S301 -- as between processes
