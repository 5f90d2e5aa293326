"""Samples out of files are those that the files hold, in batches that the model takes; what does not fit is named."""

import numpy as np
import pytest
import torch
from PIL import Image

from quantizer_sdk import DataError
from quantizer_sdk.samples import ImageOptions, ModelInput, dynamic_shapes_of, inputs_of, load_samples

MOST = 2**31


def wanted(name="x", shape=(2, 3), dtype=torch.float32, batch_range=None):
    low, high = batch_range or ((1, MOST) if shape[0] is None else (shape[0], shape[0]))
    return ModelInput(name=name, dtype=dtype, shape=shape, batch_range=(low, high))


IDS = wanted("ids", (None, 4), torch.int64)
MASK = wanted("mask", (None, 4), torch.float32)


def values_of(samples):
    return [torch.cat(column) for column in zip(*samples.batches, strict=True)]


@pytest.mark.parametrize("name", ["data.npy", "data.npz", "data.pt", "named.npz", "named.pt"])
def test_an_array_in_each_kind_of_file(tmp_path, name):
    array = np.arange(15, dtype=np.float64).reshape(5, 3)
    path = tmp_path / name
    write = {
        "data.npy": lambda: np.save(path, array),
        "data.npz": lambda: np.savez(path, array),
        "data.pt": lambda: torch.save(torch.from_numpy(array), path),
        "named.npz": lambda: np.savez(path, anything=array),
        "named.pt": lambda: torch.save({"x": torch.from_numpy(array)}, path),
    }
    write[name]()
    samples = load_samples(path, [wanted()])
    assert [batch[0].shape for batch in samples.batches] == [(2, 3), (2, 3)]
    (found,) = values_of(samples)
    assert torch.equal(found, torch.arange(12, dtype=torch.float32).reshape(4, 3))
    assert samples.notes == ("1 of 5 samples are left out: 2 batches of 2",)


def test_several_inputs_by_name_or_in_order(tmp_path):
    ids, mask = np.arange(24).reshape(6, 4), np.ones((6, 4), dtype=np.float32)
    np.savez(tmp_path / "named.npz", mask=mask, ids=ids.astype(np.int32))
    np.savez(tmp_path / "order.npz", ids, mask)
    torch.save((torch.from_numpy(ids), torch.from_numpy(mask)), tmp_path / "order.pt")
    for name in ("named.npz", "order.npz", "order.pt"):
        samples = load_samples(tmp_path / name, [IDS, MASK])
        found = values_of(samples)
        assert samples.batch_size == 6
        assert [value.dtype for value in found] == [torch.int64, torch.float32]
        assert torch.equal(found[0], torch.from_numpy(ids))


def test_a_folder_has_a_file_for_each_sample_or_batch(tmp_path):
    for index in range(5):
        shape = (2, 3) if index == 2 else (3,)
        np.save(tmp_path / f"{index}.npy", np.full(shape, index, dtype=np.float32))
    (found,) = values_of(load_samples(tmp_path, [wanted()]))
    assert found[:, 0].tolist() == [0, 1, 2, 2, 3, 4]


def test_whole_batches(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    np.save(tmp_path / "batches.npy", array)
    samples = load_samples(tmp_path / "batches.npy", [wanted()])
    assert [batch[0].tolist() for batch in samples.batches] == array.tolist()


def test_an_input_that_is_one_for_all(tmp_path):
    table = wanted("table", (4, 4))
    np.savez(tmp_path / "data.npz", x=np.zeros((6, 3), np.float32), table=np.eye(4, dtype=np.float32))
    samples = load_samples(tmp_path / "data.npz", [wanted(), table])
    assert [tuple(value.shape for value in batch) for batch in samples.batches] == [((2, 3), (4, 4))] * 3


def test_so_many_samples_spread_evenly(tmp_path):
    np.save(tmp_path / "many.npy", np.arange(300, dtype=np.float32).reshape(100, 3))
    (found,) = values_of(load_samples(tmp_path / "many.npy", [wanted()], limit=4))
    assert (found[:, 0] / 3).tolist() == [0, 25, 50, 75]


def test_batches_of_a_dynamic_size(tmp_path):
    np.save(tmp_path / "many.npy", np.zeros((20, 3), np.float32))
    free = wanted(shape=(None, 3))
    assert load_samples(tmp_path / "many.npy", [free]).batch_size == 8
    assert load_samples(tmp_path / "many.npy", [free], batch_size=5).batch_size == 5
    assert load_samples(tmp_path / "many.npy", [wanted(shape=(None, 3), batch_range=(10, 16))]).batch_size == 10
    with pytest.raises(DataError, match="batches of 5 samples; the model was exported for 10 to 16"):
        load_samples(tmp_path / "many.npy", [wanted(shape=(None, 3), batch_range=(10, 16))], batch_size=5)
    with pytest.raises(DataError, match="exported for batches of 2"):
        load_samples(tmp_path / "many.npy", [wanted()], batch_size=5)


def test_one_batch_of_five_is_held_out(tmp_path):
    np.save(tmp_path / "many.npy", np.arange(66, dtype=np.float32).reshape(22, 3))
    samples = load_samples(tmp_path / "many.npy", [wanted()])
    kept, other = samples.held_out()
    assert (len(kept.batches), len(other.batches)) == (9, 2)
    together = sorted(float(batch[0][0, 0]) for part in (kept, other) for batch in part.batches)
    assert together == [float(batch[0][0, 0]) for batch in samples.batches]
    few = load_samples(tmp_path / "many.npy", [wanted()], limit=8)
    assert few.held_out() == (few, few)


@pytest.mark.parametrize(
    ("array", "inputs", "words"),
    [
        (np.zeros((4, 5), np.float32), [wanted()], r"input 'x', float32 \[2, 3\] has shape \[4, 5\]; expected samples"),
        (np.zeros((4, 3), np.uint8), [wanted()], "holds uint8; scale it as the model was trained with"),
        (np.zeros((4, 4), np.float32), [IDS], "holds float32; give it the input's type"),
        (np.full((4, 4), 2**40), [wanted("ids", (2, 4), torch.int32)], "values that the input's type does not hold"),
        (np.zeros((1, 3), np.float32), [wanted()], "holds 1 samples; .* batches of 2: give at least that many"),
        (np.zeros((4, 3), np.float32), [wanted(), MASK], "holds 1 arrays; the model takes"),
        (np.array([object()]), [wanted()], "cannot read"),
        (np.array(["a"]), [wanted()], "which no tensor is of"),
        (np.zeros((4, 3), np.float32), [], "takes no tensors"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, array, inputs, words):
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(DataError, match=words):
        load_samples(tmp_path / "bad.npy", inputs)


def test_names_that_the_model_does_not_know(tmp_path):
    ids, mask = np.zeros((4, 4), np.int64), np.zeros((4, 4), np.float32)
    cases = [
        ({"ids": ids, "masks": mask}, "has no array 'mask', only ids, masks"),
        ({"ids": ids, "mask": mask, "more": mask}, "has 'more', which is no input"),
        ({"ids": ids, "mask": mask[:3]}, "different numbers of samples: 4 for 'ids', 3 for 'mask'"),
    ]
    for arrays, words in cases:
        np.savez(tmp_path / "bad.npz", **arrays)
        with pytest.raises(DataError, match=words):
            load_samples(tmp_path / "bad.npz", [IDS, MASK])


def test_files_and_folders_that_hold_no_samples(tmp_path):
    (tmp_path / "text.txt").write_text("")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    torch.save({"x": "words"}, tmp_path / "words.pt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    np.save(tmp_path / "mixed" / "a.npy", np.zeros(3, np.float32))
    Image.new("RGB", (4, 4)).save(tmp_path / "mixed" / "b.png")
    for name, words in {
        "none.npz": "does not exist",
        "text.txt": "ends in '.txt'; expected one of .npy, .npz, .pt, or a folder",
        "broken.npz": "cannot read",
        "words.pt": "x is a str; expected a tensor",
        "empty": "holds neither images nor arrays",
        "mixed": "holds both images and arrays",
    }.items():
        with pytest.raises(DataError, match=words):
            load_samples(tmp_path / name, [wanted()])


def picture(path, size=(6, 4)):
    """Save an image whose red is the column, green the row, blue 255."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = np.arange(size[0]), np.arange(size[1])[:, None], 255
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_images_are_cropped_in_the_middle_and_normalized(tmp_path):
    picture(tmp_path / "cats" / "a.png")
    picture(tmp_path / "dogs" / "b.png")
    image = wanted("image", (1, 3, 4, 4))
    samples = load_samples(tmp_path, [image])
    (found,) = values_of(samples)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    red = ((torch.arange(1, 5) / 255 - mean[0]) / std[0]).expand(4, 4)
    assert torch.equal(found[0, 0], red)
    assert torch.equal(found[1, 2], ((torch.ones(4, 4) - mean[2]) / std[2]))
    assert "shorter side to 4, middle 4 x 4" in samples.notes[0]
    raw = load_samples(tmp_path, [wanted("image", (1, 4, 4, 3), torch.uint8)])
    assert raw.batches[0][0][0, :, :, 1].tolist() == [[row] * 4 for row in range(4)]
    plain = load_samples(tmp_path, [image], options=ImageOptions(mean=(0.0,), std=(1.0,)))
    assert torch.equal(plain.batches[0][0][0, 0], (torch.arange(1, 5) / 255).expand(4, 4))
    gray = load_samples(tmp_path, [wanted("image", (1, 1, 4, 4))])
    assert gray.batches[0][0].shape == (1, 1, 4, 4)
    larger = load_samples(tmp_path, [image], options=ImageOptions(resize=8))
    assert "shorter side to 8" in larger.notes[0]


def test_images_where_none_fit(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "b.jpg").write_bytes(b"no image")
    image = wanted("image", (1, 3, 4, 4))
    cases = [
        (tmp_path, [wanted()], None, "which no image is"),
        (tmp_path, [image, image], None, "images, which are one input"),
        (tmp_path, [wanted("image", (1, 3, None, None))], None, "say one with --resize"),
        (tmp_path, [image], ImageOptions(mean=(0.0, 0.0)), "mean has 2 numbers; the model's images have 3 channels"),
        (tmp_path, [image], ImageOptions(std=(0.0,)), "std is 0"),
        (tmp_path, [image], ImageOptions(resize=2), "resize is 2; .* needs 4"),
        (tmp_path / "broken", [image], None, "cannot read the image"),
    ]
    for path, inputs, options, words in cases:
        with pytest.raises(DataError, match=words):
            load_samples(path, inputs, options=options)


def test_what_a_program_takes():
    class Net(torch.nn.Module):
        def forward(self, ids, *, mask, flag=True):
            return ids * mask if flag else ids

    batch = torch.export.Dim("batch", min=2, max=16)
    shapes = {"ids": {0: batch}, "mask": {0: batch}, "flag": None}
    example = (torch.ones(3, 4, dtype=torch.int64),), {"mask": torch.ones(3, 4), "flag": True}
    program = torch.export.export(Net(), *example, dynamic_shapes=shapes)
    ids, mask = inputs_of(program)
    assert (str(ids), str(mask)) == ("'ids', int64 [*, 4]", "'mask', float32 [*, 4]")
    assert ids.batch_range == (2, 16)
    one, two = dynamic_shapes_of(program)
    assert one[0] is two[0]
    assert (one[0].min, one[0].max) == (2, 16)
    fixed = torch.export.export(Net(), *example)
    assert dynamic_shapes_of(fixed) is None
    assert [item.shape for item in inputs_of(fixed)] == [(3, 4), (3, 4)]
