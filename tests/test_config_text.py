"""Configurations that are Python text are read, and never run."""

from lib.weights.config_text import read_text


def test_values_names_and_sums_are_read():
    text = "a = 1\nb = dict(x=a, y=[1, -2.5, None], **dict(z='w'))\nc = {'k': (a, True)}\nd = 2 * 3 + 1\n'words'\n"
    assert read_text(text) == (
        {"a": 1, "b": {"x": 1, "y": [1, -2.5, None], "z": "w"}, "c": {"k": [1, True]}, "d": 7},
        [],
    )


def test_a_base_configuration_and_its_heir_are_merged():
    text = "configs/base.py\nmodel = dict(a=1, b=dict(c=2, d=3))\nconfigs/heir.py\nmodel = dict(b=dict(c=4))\n"
    assert read_text(text)[0] == {"model": {"a": 1, "b": {"c": 4, "d": 3}}}
    assert read_text(text + "model = dict(b=dict(_delete_=True, c=5))")[0] == {"model": {"a": 1, "b": {"c": 5}}}


def test_a_list_is_read_whole_or_not_at_all():
    values, unread = read_text("a = [1, f()]\nb = dict(c=1, d=[1, f()], e=2)")
    assert (values, unread) == ({"b": {"c": 1, "e": 2}}, ["line 1: a", "line 2: b.d"])
