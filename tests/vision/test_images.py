"""Reading images: sources, odd files, and the cut into parts."""

from collections import Counter

import datasets
import numpy as np
import pytest
from PIL import Image
from vision.toy import class_folders, picture

from tasks.errors import TaskError
from tasks.image_classification import sources
from tasks.image_classification.config import DataConfig
from tasks.image_classification.data import load_images, load_split, save_summary
from tasks.image_classification.images import ImageSet, as_rgb
from tasks.image_classification.split import cut, limit


def load(source, **keys):
    return load_images(DataConfig(source=str(source), **keys))


def test_digits_are_cut_by_class():
    corpus = load("digits")
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (1259, 179, 359)
    names = [set(part.names) for part in (corpus.train, corpus.validation, corpus.test)]
    assert len(set.union(*names)) == sum(map(len, names)) == 1797
    assert set(Counter(corpus.test.labels).values()) <= {35, 36, 37}
    image = corpus.train.image(0)
    assert (image.size, image.mode, image.getextrema()[0][1] > 200) == ((8, 8), "RGB", True)


def test_the_cut_depends_on_its_seed_only():
    assert load("digits").test.digest() == load("digits", max_train=100).test.digest()
    assert load("digits").test.digest() != load("digits", split_seed=1).test.digest()


def test_limits_keep_the_shares_of_the_classes():
    corpus = load("digits", max_train=50, max_test=20)
    assert set(Counter(corpus.train.labels).values()) == {5}
    assert set(Counter(corpus.test.labels).values()) == {2}


def test_a_class_of_one_image_stays_in_training():
    rest, held = cut([0, 1, 1, 1, 1], (0.9,), seed=0)
    assert 0 in rest
    assert len(held) == 3
    assert limit([0, 0, 1], None, seed=0) == [0, 1, 2]


def test_class_folders(folders):
    (folders / "red" / "notes.txt").write_text("not an image")
    corpus = load(f"imagefolder:{folders}")
    assert corpus.classes == ("blue", "green", "red")
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (21, 3, 6)
    for index in range(len(corpus.train)):
        mean = np.asarray(corpus.train.image(index)).mean((0, 1))
        assert np.argmax(mean) == {"blue": 2, "green": 1, "red": 0}[corpus.classes[corpus.train.labels[index]]]


def test_folders_that_are_cut_already(tmp_path):
    for part, count in (("train", 5), ("val", 2), ("test", 3)):
        class_folders(tmp_path / "cut" / part, count)
    corpus = load(f"imagefolder:{tmp_path / 'cut'}")
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (15, 6, 9)
    assert all("/test/" in name for name in corpus.test.names)


def test_a_test_folder_alone_leaves_validation_to_be_cut(tmp_path):
    for part, count in (("train", 10), ("test", 3)):
        class_folders(tmp_path / "cut" / part, count)
    corpus = load(f"imagefolder:{tmp_path / 'cut'}")
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (27, 3, 9)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("LA", (100, 255), (100, 100, 100)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("I;16", 51200, (200, 200, 200)),
        ("I", 51200, (200, 200, 200)),
        ("CMYK", (0, 0, 0, 0), (255, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb(mode, value, expected):
    assert as_rgb(Image.new(mode, (2, 3), value)).getpixel((1, 2)) == expected


def test_palettes_keep_their_colours_and_transparency(tmp_path):
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 250, 0, 0, 0, 250, 0])
    assert as_rgb(image).getpixel((0, 0)) == (250, 0, 0)
    image.save(tmp_path / "clear.png", transparency=1)
    assert as_rgb(Image.open(tmp_path / "clear.png")).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("content", [b"not an image", b"", None])
def test_a_damaged_image_is_named(folders, content):
    path = folders / "red" / "red_test_0.png"
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    corpus = load(f"imagefolder:{folders}")
    parts = [part for part in (corpus.train, corpus.validation, corpus.test) if str(path) in part.names]
    with pytest.raises(TaskError, match=r"cannot read the image .*red_test_0.png"):
        parts[0].image(list(parts[0].names).index(str(path)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digit", "expected digits, imagefolder:PATH or hub:NAME"),
        ("imagefolder:", "expected digits, imagefolder:PATH or hub:NAME"),
        ("imagefolder:nowhere", "no folder at nowhere"),
        ("imagefolder:{}/empty", "holds no images in class folders"),
        ("imagefolder:{}/one", "has one class only .only."),
        ("imagefolder:{}/few", "no validation images are left"),
        ("imagefolder:{}/odd", "no training image has the label red"),
        ("imagefolder:{}/late", "has test but no train folder"),
        ("hub:nobody/nothing", "(?s)hub:nobody/nothing could not be loaded.*Without a network"),
    ],
)
def test_sources_that_cannot_be_used(source, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one" / "only").mkdir(parents=True)
    picture("red").save(tmp_path / "one" / "only" / "a.png")
    class_folders(tmp_path / "few", 2)
    class_folders(tmp_path / "odd" / "train", 6, classes=("blue", "green"))
    class_folders(tmp_path / "odd" / "test", 2)
    class_folders(tmp_path / "late" / "test", 2)
    with pytest.raises(TaskError, match=message):
        load(source.format(tmp_path))


def hub(monkeypatch, features, rows):
    table = datasets.Dataset.from_dict(rows, features=features)
    loaded = datasets.DatasetDict({"train": table, "valid": table})
    monkeypatch.setattr(datasets, "load_dataset", lambda name, subset: loaded)


IMAGES = [picture("red", i) for i in range(12)]


def test_a_hub_data_set_with_numbers_for_classes(monkeypatch):
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
    hub(monkeypatch, features, {"img": IMAGES, "label": [7, 3] * 6})
    corpus = load("hub:some/images", test_fraction=0.2)
    assert corpus.classes == ("3", "7")
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (10, 12, 2)
    assert corpus.train.image(0).size == (12, 12)


def test_columns_are_named_where_two_are_possible(monkeypatch):
    kind = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"img": datasets.Image(), "coarse": kind, "fine": kind})
    hub(monkeypatch, features, {"img": IMAGES, "coarse": [0, 1] * 6, "fine": [0, 1] * 6})
    with pytest.raises(TaskError, match=r"cannot tell which is the label column of: img, coarse, fine.*data.label_col"):
        load("hub:some/images")
    with pytest.raises(TaskError, match="no column 'fin'; did you mean 'fine'"):
        load("hub:some/images", label_column="fin")
    assert load("hub:some/images", label_column="fine").classes == ("a", "b")
    with pytest.raises(TaskError, match="no split 'tests'"):
        load("hub:some/images", label_column="fine", test_split="tests")


def test_a_split_with_hidden_labels_is_cut_anew_unless_it_is_asked_for(monkeypatch):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    shown, hidden = (
        datasets.Dataset.from_dict({"image": IMAGES, "label": labels}, features=features)
        for labels in ([0, 1] * 6, [-1] * 12)
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict({"train": shown, "test": hidden}))
    corpus = load("hub:some/images")
    assert set(corpus.test.names) < {f"train {i}" for i in range(12)}
    with pytest.raises(TaskError, match="images of the split 'test' have no label"):
        load("hub:some/images", test_split="test")


def test_an_evaluation_notices_other_images(folders, tmp_path):
    config = DataConfig(source=f"imagefolder:{folders}")
    save_summary(load_images(config), tmp_path / "data")
    assert len(load_split(config, tmp_path / "data", "test")[0]) == 6
    class_folders(folders, 12)
    with pytest.raises(TaskError, match=r"test images .* are not those of the training any more .6 then"):
        load_split(config, tmp_path / "data", "test")


def test_a_set_opens_an_image_only_when_asked():
    opened = []
    images = ImageSet(["a", "b"], [0, 1], lambda i: opened.append(i) or IMAGES[i])
    images.select([1]).image(0)
    assert opened == [1]


def test_usual_split_names_do_not_overlap():
    names = [name for names in sources.SPLIT_NAMES.values() for name in names]
    assert len(names) == len(set(names))
