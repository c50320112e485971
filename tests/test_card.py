"""The card: strangers' words as text, a licence that the Hub knows, and where the network comes from."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
import seeded
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from repositories import config, ours, write

import keras_cnn as kc
from keras_cnn.checkpoints import card, directory, licences
from keras_cnn.errors import BadSpec, CorruptFile
from keras_cnn.hub import resolve
from keras_cnn.models import registry, shapes
from keras_cnn.models.heads import Head

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</p></div><h1>owned</h1>",
    "<!-- hidden",
    "&lt;b&gt;",
    "[click](javascript:alert(1))",
    "![x](https://evil.example/x.png)",
    "`code` and ``` fences",
    "# heading",
    "- item *bold* _it_ ~~gone~~",
    "1. first | cell | $x$",
    "> quoted",
    "a\n---\nlicense: mit\n---\n",
    "key: [value, {x: 1}]  # no comment",
    "\x1b[31mred\x1b[0m\x07",
    "=cmd|' /C calc'!A0",
    "+1-1@SUM(A1)",
    "abc\u202etxt.exe\u2066",
    "https://evil.example and www.evil.example and me@evil.example",
    "back\\\\slash \\* and a\\",
)


class Tags(HTMLParser):
    """What a reader of a page meets: elements, their attributes, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str | None] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes |= {value for _, value in attrs}

    def handle_data(self, data):
        self.text += data


def rendered(text: str) -> Tags:
    body = text.partition("\n---\n")[2]
    return Tags(MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(body))


def hostile(**facts):
    conf = config(**facts)
    head = Head(classes=len(HOSTILE))
    return conf.with_(head=head, class_names=HOSTILE)


@pytest.mark.no_keras
def test_class_names_of_strangers_are_text():
    text = card.card(hostile(), "net")
    page, plain = rendered(text), rendered(card.card(config(), "net"))
    assert page.names == plain.names and page.attributes == plain.attributes
    shown = page.text.partition("Classes")[2]
    for name in HOSTILE:
        assert card.visible(name) in shown, name
    assert all(c.isprintable() or c == "\n" for c in text)
    assert not re.search(r"https?://(?!huggingface)|www\\.|me@", text.partition("## Classes")[2])  # nothing to link


@pytest.mark.no_keras
@pytest.mark.parametrize("word", HOSTILE)
def test_facts_of_strangers_are_text(word):
    facts = dict.fromkeys(("source", "base", "base_license", "data", "limits", "base_limits", "license"), word)
    text = card.card(config(**facts, metrics={word: word, f"{word} accuracy": 0.5}, command=f"keras-cnn {word}"), word)
    page, plain = rendered(text), rendered(card.card(config(command="keras-cnn x", **dict.fromkeys(facts, "x")), "x"))
    assert page.names <= plain.names | {"br"} and page.attributes <= plain.attributes
    data = ModelCard(text).data  # as the Hub reads it
    assert data.license == "other" and re.fullmatch(r"[a-z0-9-]+", data.license_name)
    assert data.library_name == "keras_cnn" and data.pipeline_tag == "image-classification"
    assert data.eval_results[0].metric_value == 0.5
    assert all(card.visible(one) == one for one in (data.eval_results[0].dataset_name, data.model_name))


@pytest.mark.no_keras
def test_the_hub_is_shown_a_card_that_it_accepts(hub, home, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    conf = hostile(license="mit")
    values = seeded.arrays(shapes.variables(shapes.tally(conf)))
    monkeypatch.setattr("repositories.config", lambda *_, **__: conf)
    kc.publish(write(ours(values=values), tmp_path / "run"), "me/net")
    assert hub.seen("POST", "/validate-yaml")
    read = ModelCard(hub.files("me/net")["README.md"].decode())
    assert read.data.license == "mit" and ModelCard(str(read)).data.to_dict() == read.data.to_dict()
    told = json.loads(hub.files("me/net")["config.json"])["keras_cnn"]
    assert tuple(told["class_names"]) == HOSTILE  # as they are: it is the card that shows them as text


# --- licences -------------------------------------------------------------------------------------------------------


@pytest.mark.no_keras
@pytest.mark.parametrize(
    ("licence", "sentence"),
    [
        ("apache2", r"licence 'apache2' is none that the Hub knows\. Did you mean apache-2\.0"),
        ("MIT License", r"licence 'MIT License' is none that the Hub knows\. Did you mean mit"),
        ("qqqqqqqq", r"licence 'qqqqqqqq' is none that the Hub knows\. 'other' stands for all that it lacks\."),
    ],
)
def test_a_licence_that_the_hub_does_not_know_is_refused(tmp_path, licence, sentence):
    run = write(ours(license=None), tmp_path / "run")
    with pytest.raises(BadSpec, match=sentence):
        kc.publish(run, "me/net", license=licence, dry_run=True)
    kc.publish(run, "me/net", license="Apache-2.0", dry_run=True)


@pytest.mark.no_keras
def test_a_licence_in_words_is_quoted():
    text = card.card(config(license="Ask *me* first"), "net")
    assert ModelCard(text).data.license == "other" and ModelCard(text).data.license_name == "ask-me-first"
    assert "## Licence\n\nother: “Ask \\*me\\* first”\n" in text
    assert "## Licence\n\nmit\n" in card.card(config(license="mit"), "net")
    assert licences.name("MIT") == "mit"


# --- where a network comes from -------------------------------------------------------------------------------------


def test_a_fine_tuned_network_names_its_base_with_licence_and_limits(tmp_path):
    model = kc.build("resnet18.tiny_in200", classes=["ant", "bee"], input_shape=(32, 32, 3))
    limits = kc.info("resnet18.tiny_in200")["provenance"]["limits"]
    path = kc.save_pretrained(model, tmp_path / "net", provenance={"limits": "Two insects."})
    facts = directory.read(path).config.provenance
    assert (facts["base"], facts["base_license"], facts["license"]) == ("resnet18.tiny_in200", "other", "other")
    assert facts["base_limits"] == limits and "metrics" not in facts
    text = (path / "README.md").read_text()
    assert "## Fine-tuned from\n\nresnet18.tiny\\_in200, licence: other\n" in text
    assert f"## Limits\n\nTwo insects.\n\n## Limits of the base\n\n{limits}\n" in text
    again = kc.build(path, classes=3)  # the limits of all that it came from
    assert directory.config_of(again).provenance["base_limits"] == f"Two insects.\n{limits}"


@pytest.mark.no_keras
def test_a_tag_leads_to_its_repository():
    base = lambda tag: resolve(tag).config.as_base(tag).provenance  # noqa: E731
    assert card.base_model(base("resnet50.a1_in1k")) == "timm/resnet50.a1_in1k"
    assert card.base_model(base("resnet18.tiny_in200")) is None


def test_pictures_beside_a_card_are_shown(tmp_path):
    model = kc.build("resnet20", classes=2, input_shape=(16, 16, 3))
    kc.save_pretrained(model, tmp_path)
    assert "![" not in (tmp_path / "README.md").read_text()
    (tmp_path / "curves.png").write_bytes(b"\x89PNG")
    facts = {"command": "keras-cnn finetune /home/ann/photos", "data": "/home/ann/photos", "source": "C:\\ann\\net"}
    kc.save_pretrained(model, tmp_path, provenance=facts)
    for name in ("README.md", "config.json"):
        assert "ann" not in (tmp_path / name).read_text(encoding="utf-8")
    assert "![Learning curves](curves.png)" in (tmp_path / "README.md").read_text()
    assert directory.read(tmp_path).config.provenance["command"] == "keras-cnn finetune photos"


@pytest.mark.no_keras
def test_a_configuration_beyond_every_size_is_not_read(tmp_path):
    run = write(ours(), tmp_path / "run")
    with (run / "config.json").open("a") as file:
        file.write(" " * directory.LARGEST_CONFIG)
    with pytest.raises(CorruptFile, match=r"config\.json has \d+ bytes, and no configuration has more than"):
        directory.read(run)
    assert registry.architectures()


def test_addresses_that_are_no_names_are_not_listed():
    assert card.datasets("hf://datasets/../..") == [] and card.datasets("hf://datasets/me/pets@main") == ["me/pets"]
    assert card.base_model({"base": "hf://../.."}) is None


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["resnet18.tiny_in200", "resnet18_half.tiny_in200"])
def test_weights_of_our_own_name_as_many_images_as_their_card_says(shared, tag):
    """But for three of 5,000, whose classes may be so near to each other that processors differ."""
    net = kc.build(tag)
    data = kc.load_data(shared / "data" / "tiny_imagenet.zip", net)
    found, told = kc.evaluate(net, data, split="val").metrics, kc.info(tag)["provenance"]["metrics"]
    assert found["images"] == told["val images"] == 5000
    assert found["accuracy"] == pytest.approx(told["val accuracy"], abs=3 / 5000)
