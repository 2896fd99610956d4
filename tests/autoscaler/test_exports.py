import pilotlight_autoscaler


def test_exports_are_the_documented_names() -> None:
    public = sorted(
        name
        for name, value in vars(pilotlight_autoscaler).items()
        if not name.startswith("_") and getattr(value, "__module__", None) is not None
    )

    assert sorted(pilotlight_autoscaler.__all__) == public
