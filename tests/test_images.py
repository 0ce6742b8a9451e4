"""Images of users: read as they are, or refused with what is wrong and what to do; nothing is guessed."""

import importlib.util
import re
import shutil
import sys
import warnings

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

import rlnlib
from rlnlib import images
from rlnlib.microstructure import pymks_cell


@pytest.fixture
def cell():
    return pymks_cell(8, (3, 2, 4), 0.5, 1)


def save(kind, path, image):
    if kind == "npy":
        np.save(path.with_suffix(".npy"), image)
        return path.with_suffix(".npy")
    if kind == "npz":
        np.savez(path.with_suffix(".npz"), cell=image)
        return path.with_suffix(".npz")
    if kind == "tif":
        tifffile.imwrite(path.with_suffix(".tif"), image)
        return path.with_suffix(".tif")
    path.mkdir()
    for n, plane in enumerate(image):
        tifffile.imwrite(path / f"slice_{n:03d}.tif", plane)
    return path


@pytest.mark.parametrize("kind", ["npy", "npz", "tif", "folder"])
def test_cells_come_back_from_files_and_can_be_solved(kind, cell, tmp_path):
    path = save(kind, tmp_path / "cell", np.where(cell, 255, 17).astype(np.uint8))
    loaded = rlnlib.load_cell(path)
    assert loaded.dtype == bool and np.array_equal(loaded, cell)
    assert np.array_equal(rlnlib.load_cell(path, stiff_label=17), ~cell)
    assert np.array_equal(rlnlib.load_cell(path, loading_axis=2), np.moveaxis(cell, 2, 0))
    strain = rlnlib.solve_strain(loaded, 10.0).strain
    assert strain.shape == (1, 6, 8, 8, 8)


@pytest.mark.parametrize("kind", ["npy", "npz", "tif"])
def test_truncated_files_are_named(kind, cell, tmp_path):
    path = save(kind, tmp_path / "cell", cell.astype(np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(OSError, match=path.name):
        rlnlib.load_cell(path)


def test_wrong_files_are_named(cell, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        rlnlib.load_cell(tmp_path / "absent.npy")
    (tmp_path / "cell.jpg").write_bytes(b"no cell")
    with pytest.raises(OSError, match=r"cell\.jpg.*\.npy"):
        rlnlib.load_cell(tmp_path / "cell.jpg")
    cases = {
        "line": (cell[0, 0], "three axes"),
        "deep": (cell[..., None], r"array.squeeze\(\)"),
        "three": (cell.astype(int) + np.eye(8, dtype=int) * 2, "labels 0, 1, 2, 3.*stiff_label.*load_labels"),
        "one": (np.zeros((4, 4, 4), int), "label 0 alone"),
        "nan": (np.full((4, 4, 4), np.nan), "finite"),
        "needle": (np.ones((4, 1, 1), int), "three axes"),
    }
    for name, (image, sentence) in cases.items():
        np.save(tmp_path / f"{name}.npy", image)
        with pytest.raises(ValueError, match=sentence):
            rlnlib.load_cell(tmp_path / f"{name}.npy")
    np.save(tmp_path / "hostile.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(OSError):
        rlnlib.load_cell(tmp_path / "hostile.npy")


def test_the_labels_of_the_stiff_phase_can_be_named(tmp_path):
    image = np.random.default_rng(0).choice([3, 5, 7, 40], (6, 5, 4)).astype(np.uint8)
    np.save(tmp_path / "image.npy", image)
    assert np.array_equal(rlnlib.load_cell(tmp_path / "image.npy", stiff_label=5), image == 5)
    both = rlnlib.load_cell(tmp_path / "image.npy", stiff_label=(3, 40), loading_axis=1)
    assert np.array_equal(both, np.moveaxis((image == 3) | (image == 40), 1, 0)) and both.dtype == bool
    with pytest.raises(ValueError, match=r"stiff_label=\(3, 4\).*labels are 3, 5, 7, 40"):
        rlnlib.load_cell(tmp_path / "image.npy", stiff_label=(3, 4))


def test_an_image_of_several_phases_becomes_labels_that_the_solver_takes(tmp_path):
    image = np.random.default_rng(0).choice([3, 5, 40], (6, 4, 4)).astype(np.int16)
    np.save(tmp_path / "image.npy", image)
    labels, values = images.load_labels(tmp_path / "image.npy")
    assert values.tolist() == [3, 5, 40] and np.array_equal(values[labels], image)
    solution = rlnlib.solve_strain(labels, phases=[(1.0, 0.3), (5.0, 0.2), (20.0, 0.3)], rtol=1e-6)
    assert bool(solution.converged.all())
    np.save(tmp_path / "grey.npy", np.arange(125.0).reshape(5, 5, 5))
    with pytest.raises(ValueError, match="125 different values"):
        images.load_labels(tmp_path / "grey.npy")


def test_one_of_several_arrays_is_chosen_by_name(cell, tmp_path):
    np.savez(tmp_path / "two.npz", phase=cell.astype(int), other=np.zeros(3))
    assert np.array_equal(rlnlib.load_cell(tmp_path / "two.npz", array="phase"), cell)
    with pytest.raises(ValueError, match=r"arrays \['phase', 'other'\]: name"):
        rlnlib.load_cell(tmp_path / "two.npz")
    with pytest.raises(ValueError, match=r"array='phases' is not in .*\['phase', 'other'\]"):
        rlnlib.load_cell(tmp_path / "two.npz", array="phases")
    np.save(tmp_path / "one.npy", cell)
    with pytest.raises(ValueError, match="one array without a name"):
        rlnlib.load_cell(tmp_path / "one.npy", array="phase")


def legacy(image, place="POINT_DATA", spacing=(1, 1, 1), kind="STRUCTURED_POINTS"):
    """Legacy VTK text, x fastest. Shape: image (x, y, z)."""
    counts = [n + (place == "CELL_DATA") for n in image.shape]
    values = [str(image[x, y, z]) for z, y, x in np.ndindex(image.shape[::-1])]
    size, zeros = len(values), " ".join(["0"] * len(values))
    return "\n".join(
        ["# vtk DataFile Version 3.0", "a cell", "ASCII", f"DATASET {kind}"]
        + ["DIMENSIONS {} {} {}".format(*counts), "ORIGIN 0 0 0", "SPACING {} {} {}".format(*spacing)]
        + [f"{place} {size}", "SCALARS other int 1", "LOOKUP_TABLE default", zeros]
        + ["SCALARS phase int 1", "LOOKUP_TABLE default", *values, ""]
    )


def xml(image, place="CellData", spacing=(1, 1, 1)):
    """The same as .vti."""
    counts = [n - (place == "PointData") for n in image.shape]
    extent = " ".join(f"0 {n}" for n in counts)
    values = " ".join(str(image[x, y, z]) for z, y, x in np.ndindex(image.shape[::-1]))
    return (
        f'<VTKFile type="ImageData" version="0.1" byte_order="LittleEndian"><ImageData WholeExtent="{extent}" '
        f'Origin="0 0 0" Spacing="{" ".join(map(str, spacing))}"><Piece Extent="{extent}"><{place}>'
        f'<DataArray type="Int32" Name="phase" format="ascii">{values}</DataArray></{place}>'
        "</Piece></ImageData></VTKFile>"
    )


@pytest.mark.parametrize("place", ["POINT_DATA", "CELL_DATA"])
def test_vtk_image_data_keep_x_y_z_as_axes_0_1_2(place, tmp_path):
    """An image without any symmetry, of three different edges; the files are written by hand."""
    image = np.random.default_rng(0).choice([1, 4], (7, 5, 4))
    (tmp_path / "cell.vtk").write_text(legacy(image, place))
    (tmp_path / "cell.vti").write_text(xml(image, "PointData" if place == "POINT_DATA" else "CellData"))
    for loaded in (
        rlnlib.load_cell(tmp_path / "cell.vtk", array="phase"),
        rlnlib.load_cell(tmp_path / "cell.vti"),
    ):
        assert loaded.dtype == bool and np.array_equal(loaded, image == 4)
    turned = rlnlib.load_cell(tmp_path / "cell.vti", stiff_label=1, loading_axis=2)
    assert np.array_equal(turned, np.moveaxis(image == 1, 2, 0))
    assert np.array_equal(images.load_labels(tmp_path / "cell.vti")[0], (image == 4).astype(int))


def test_vtk_files_that_do_not_serve_get_their_sentence(tmp_path, capfd):
    image = np.random.default_rng(0).choice([1, 4], (7, 5, 4))
    cases = {
        "which.vtk": (legacy(image), ValueError, r"arrays \['other', 'phase'\]: name"),
        "flat.vti": (xml(image, spacing=(1, 1, 2)), ValueError, "no cubes"),
        "cut.vti": (xml(image)[:-100], OSError, "cannot be read"),
        "cut.vtk": (legacy(image)[:-40], OSError, "cannot be read"),
        "empty.vtk": ("", OSError, "cannot be read"),
        "text.vti": ("no image", OSError, "cannot be read"),
        "grid.vtk": (
            "# vtk DataFile Version 3.0\na\nASCII\nDATASET POLYDATA\nPOINTS 1 float\n0 0 0\n",
            ValueError,
            "vtkPolyData, not image data",
        ),
    }
    for name, (text, error, sentence) in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(error, match=rf"{name}.*{sentence}"):
            rlnlib.load_cell(tmp_path / name)
    assert capfd.readouterr().err == ""


def test_a_missing_vtk_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vtkmodules.vtkIOXML", None)
    (tmp_path / "cell.vti").write_text("")
    with pytest.raises(ImportError, match=r"pip install vtk.*\[vtk\]"):
        rlnlib.load_cell(tmp_path / "cell.vti")


def test_an_image_that_is_not_periodic_is_pointed_out(tmp_path):
    ramp = np.add.outer(np.add.outer(np.arange(12), np.zeros(12)), np.zeros(12)) > 5
    np.save(tmp_path / "half.npy", ramp)
    with pytest.warns(RuntimeWarning, match="does not look periodic"):
        rlnlib.load_cell(tmp_path / "half.npy")
    np.save(tmp_path / "periodic.npy", pymks_cell(12, (4, 4, 4), 0.5, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rlnlib.load_cell(tmp_path / "periodic.npy")


# What users do with files of their own.


@pytest.fixture
def labels(cell):
    return cell.astype(np.uint8) * 255


def write_slices(folder, planes, name, numbers=None, **options):
    folder.mkdir(exist_ok=True)
    for n, plane in zip(numbers or range(1, len(planes) + 1), planes, strict=True):
        tifffile.imwrite(folder / name.format(n), plane, **options)


@pytest.mark.parametrize(
    "name", ["slice{}.tif", "scan2_{:02d}_a.TIF", "z {:d}.tiff", "a_z{:03d}.tif", "s-{}.tif", "1.{}.tif"]
)
def test_slices_come_in_the_order_of_their_numbers_not_of_their_letters(name, tmp_path):
    planes = pymks_cell(12, (3, 3, 3), 0.5, 1).astype(np.uint8)
    write_slices(tmp_path / "scan", planes, name)
    assert np.array_equal(rlnlib.load_cell(tmp_path / "scan"), planes)


def test_hidden_files_of_a_mac_beside_the_slices_are_left_out(labels, cell, tmp_path):
    write_slices(tmp_path / "scan", labels, "slice{}.tif")
    for hidden in ("._slice1.tif", ".DS_Store"):
        (tmp_path / "scan" / hidden).write_bytes(b"\0\5\x16\7")
    assert np.array_equal(rlnlib.load_cell(tmp_path / "scan"), cell)


def test_a_pattern_and_a_folder_of_jpeg_are_told_what_slices_are(labels, tmp_path):
    write_slices(tmp_path / "scan", labels, "slice{}.png")
    with pytest.raises(FileNotFoundError, match=r"No file .*\*\.png: name the folder of the slices"):
        rlnlib.load_cell(tmp_path / "scan" / "*.png")
    for file in (tmp_path / "scan").iterdir():
        file.rename(file.with_suffix(".jpg"))
    with pytest.raises(FileNotFoundError, match=r"holds no slices: .*JPEG changes labels"):
        rlnlib.load_cell(tmp_path / "scan")


def test_an_image_of_one_label_is_told_how_to_be_read(tmp_path):
    np.save(tmp_path / "a.npy", np.full((4, 4, 4), 7, np.uint8))
    with pytest.raises(ValueError, match=r"the label 7 alone.* with stiff_label=7 that all of it is stiff"):
        rlnlib.load_cell(tmp_path / "a.npy")
    assert rlnlib.load_cell(tmp_path / "a.npy", stiff_label=7).all()


def test_planes_that_were_named_channels_are_read_when_saved_as_the_error_says(tmp_path):
    path = tmp_path / "a.tif"
    array = np.random.default_rng(0).choice([0, 255], (5, 8, 8)).astype(np.uint8)
    tifffile.imwrite(path, array, imagej=True, metadata={"axes": "CYX"})
    with pytest.raises(ValueError, match=r"tifffile\.imwrite") as raised:
        rlnlib.load_cell(path)
    exec(
        re.search(r"tifffile\.imwrite\(.*\)", str(raised.value))[0],
        {"tifffile": tifffile, "path": path, "array": array},
    )
    assert np.array_equal(rlnlib.load_cell(path), array > 0)


def test_a_slice_that_was_not_copied_is_pointed_out_by_its_number(labels, cell, tmp_path):
    write_slices(tmp_path / "scan", labels, "slice{}.tif")
    (tmp_path / "scan" / "slice3.tif").unlink()
    with pytest.warns(RuntimeWarning, match=r"from 1 to 8, but 1 of these numbers are missing: 3") as record:
        loaded = rlnlib.load_cell(tmp_path / "scan")
    assert np.array_equal(loaded, np.delete(cell, 2, axis=0))
    assert __file__ in {warning.filename for warning in record}


def test_slices_may_be_numbered_by_their_depth(labels, cell, tmp_path):
    write_slices(tmp_path / "scan", labels, "z{:.2f}um.tif", numbers=[9 + 0.25 * n for n in range(8)])
    assert np.array_equal(rlnlib.load_cell(tmp_path / "scan"), cell)


@pytest.mark.parametrize(
    ("name", "numbers", "sentence"),
    [
        ("z{}.tif", [0.25 * n for n in range(8)], r"the numbers 0\.0 and 1\.75: .*digits after the point"),
        ("z{0[0]}_c{0[1]}.tif", [(z, c) for z in range(4) for c in range(2)], r"numbered by 4 x 2.*channels"),
        ("{}.tif", ["one", "two", "three", "four", "five", "six", "seven", "eight"], "no numbers in their names"),
    ],
)
def test_slices_whose_names_leave_their_order_open_are_refused(name, numbers, sentence, labels, tmp_path):
    write_slices(tmp_path / "scan", labels, name, numbers)
    with pytest.raises(ValueError, match=sentence):
        rlnlib.load_cell(tmp_path / "scan")


@pytest.mark.parametrize("left", [0, 300])
def test_the_slice_that_is_damaged_is_named_not_its_folder(left, labels, tmp_path):
    write_slices(tmp_path / "scan", np.repeat(np.repeat(labels, 4, 1), 4, 2), "slice{}.tif")
    damaged = tmp_path / "scan" / "slice5.tif"
    damaged.write_bytes(damaged.read_bytes()[:left])
    with pytest.raises(OSError, match=r"slice5\.tif cannot be read"):
        rlnlib.load_cell(tmp_path / "scan")


def test_a_slice_of_other_pixels_is_named(labels, tmp_path):
    write_slices(tmp_path / "scan", labels, "slice{}.tif", resolution=(100, 100))
    tifffile.imwrite(tmp_path / "scan" / "slice3.tif", labels[2], resolution=(50, 50))
    with pytest.raises(ValueError, match=r"slice3\.tif has voxels with an edge of 0\.02, but others .* of 0\.01"):
        rlnlib.load_cell(tmp_path / "scan")


def test_every_second_slice_misses_none(labels, tmp_path):
    write_slices(tmp_path / "scan", labels, "slice{}0.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rlnlib.load_cell(tmp_path / "scan").shape == (8, 8, 8)


@pytest.mark.parametrize(
    ("odd", "name", "sentence"),
    [
        (np.zeros((8, 9), np.uint8), "slice9.tif", r"slice9\.tif is \(8, 9\) of uint8, but 8 of the 9 .*\(8, 8\)"),
        (np.zeros((8, 8), np.uint16), "slice9.tif", r"slice9\.tif is \(8, 8\) of uint16"),
        (np.zeros((3, 8, 8), np.uint8), "slice9.tif", r"slice9\.tif holds an array of shape \(3, 8, 8\)"),
        (np.zeros((8, 8), np.uint8), "slice01.tif", r"slice0?1\.tif and slice0?1\.tif .*same number"),
        (np.zeros((8, 8), np.uint8), "preview1.tif", r"named in 2 ways.*preview1\.tif"),
        (np.zeros((8, 8), np.uint8), "mask.tif", r"named in 2 ways.*mask\.tif"),
        (np.zeros((8, 8, 3), np.uint8), "slice9.tif", r"slice9\.tif has the axes YXS"),
    ],
)
def test_a_slice_that_does_not_belong_to_the_others_is_named(odd, name, sentence, labels, tmp_path):
    write_slices(tmp_path / "scan", labels, "slice{}.tif")
    tifffile.imwrite(tmp_path / "scan" / name, odd, photometric="rgb" if odd.shape[-1] == 3 else "minisblack")
    with pytest.raises(ValueError, match=sentence):
        rlnlib.load_cell(tmp_path / "scan")


def write_ome_in_two_files(folder, planes):
    uuids = [f"urn:uuid:00000000-0000-0000-0000-00000000000{n}" for n in (1, 2)]
    half = len(planes) // 2
    blocks = "".join(
        f'<TiffData FirstZ="{z}" IFD="{z % half}" PlaneCount="1"><UUID FileName="part{z // half}.ome.tif">'
        f"{uuids[z // half]}</UUID></TiffData>"
        for z in range(len(planes))
    )
    for part, uuid in enumerate(uuids):
        text = (
            f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{uuid}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" '
            f'SizeX="{planes.shape[2]}" SizeY="{planes.shape[1]}" SizeZ="{len(planes)}" SizeC="1" SizeT="1">'
            f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{blocks}</Pixels></Image></OME>'
        )
        piece = planes[half * part : half * (part + 1)]
        tifffile.imwrite(
            folder / f"part{part}.ome.tif", piece, description=text, metadata=None, photometric="minisblack"
        )


@pytest.mark.parametrize("silenced", [False, True])
def test_an_image_in_several_files_of_which_one_was_not_copied_is_refused_by_its_name(silenced, labels, cell, tmp_path):
    import logging

    write_ome_in_two_files(tmp_path, labels)
    assert np.array_equal(rlnlib.load_cell(tmp_path / "part0.ome.tif"), cell)
    (tmp_path / "part1.ome.tif").unlink()
    logging.disable(logging.CRITICAL if silenced else logging.NOTSET)
    try:
        with pytest.raises(FileNotFoundError, match=r"part0\.ome\.tif .*part1\.ome\.tif is missing"):
            rlnlib.load_cell(tmp_path / "part0.ome.tif")
    finally:
        logging.disable(logging.NOTSET)


def test_planes_that_an_ome_header_promises_and_the_file_has_not_are_refused(labels, tmp_path):
    path = tmp_path / "cell.ome.tif"
    tifffile.imwrite(path, labels, ome=True, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path) as file:
        text = file.ome_metadata
    changed = text.replace('SizeZ="8"', 'SizeZ="12"').replace('PlaneCount="8"', 'PlaneCount="12"')
    tifffile.imwrite(path, labels, description=changed, metadata=None, photometric="minisblack")
    with pytest.raises(OSError, match=r"cell\.ome\.tif"):
        rlnlib.load_cell(path)


def test_a_part_of_an_ome_image_that_leaves_the_others_to_another_file_is_refused(labels, tmp_path):
    """All but the first file of a set are written so by Bio-Formats."""
    text = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<BinaryOnly MetadataFile="first.ome.tif" UUID="urn:uuid:00000000-0000-0000-0000-000000000001"/></OME>'
    )
    path = tmp_path / "second.ome.tif"
    tifffile.imwrite(path, labels, description=text, metadata=None, photometric="minisblack")
    with pytest.raises(ValueError, match=r"second\.ome\.tif is one part .*load first\.ome\.tif"):
        rlnlib.load_cell(path)


def test_a_strip_that_was_never_written_is_not_taken_for_zeros(labels, cell, tmp_path):
    path = tmp_path / "sparse.tif"
    tifffile.imwrite(path, labels, metadata=None, photometric="minisblack", tile=(16, 16))
    assert np.array_equal(rlnlib.load_cell(path), cell)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for name in ("TileOffsets", "TileByteCounts"):
            file.pages[3].tags[name].overwrite([0])
    with pytest.raises(OSError, match="parts of its plane 4 were never written"):
        rlnlib.load_cell(path)


def test_planes_of_which_an_imagej_header_does_not_speak_are_not_left_out(labels, tmp_path):
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, labels, imagej=True, metadata={"axes": "ZYX"})
    path.write_bytes(path.read_bytes().replace(b"images=8", b"images=4").replace(b"slices=8", b"slices=4"))
    with pytest.raises(OSError, match="has 8 planes, more than its header"):
        rlnlib.load_cell(path)


def test_several_pictures_in_one_png_are_refused_not_the_first_taken(labels, tmp_path):
    first, *others = (Image.fromarray(plane) for plane in labels)
    first.save(tmp_path / "film.png", save_all=True, append_images=others)
    with pytest.raises(ValueError, match="holds 8 pictures"):
        rlnlib.load_cell(tmp_path / "film.png")


@pytest.mark.parametrize("extents", [["0 8 0 8 0 4"], ["0 8 0 8 0 4", "0 8 0 8 4 8"]])
def test_a_piece_of_vtk_image_data_that_is_missing_is_not_taken_from_the_memory(extents, labels, cell, tmp_path):
    pytest.importorskip("vtk")
    head = (
        '<VTKFile type="ImageData" version="0.1" byte_order="LittleEndian">'
        '<ImageData WholeExtent="0 8 0 8 0 8" Origin="0 0 0" Spacing="1 1 1">'
    )
    parts = zip(extents, (labels[..., :4], labels[..., 4:]), strict=False)
    text = "".join(
        f'<Piece Extent="{extent}"><CellData><DataArray type="UInt8" Name="phase" format="ascii">'
        f"{' '.join(map(str, part.ravel(order='F')))}</DataArray></CellData></Piece>"
        for extent, part in parts
    )
    path = tmp_path / "pieces.vti"
    path.write_text(f"{head}{text}</ImageData></VTKFile>")
    if len(extents) == 2:
        assert np.array_equal(rlnlib.load_cell(path), cell)
        return
    with pytest.raises(OSError, match="announces 512 voxels, but its pieces have 256"):
        rlnlib.load_cell(path)


def test_meta_images_whose_header_and_data_disagree_are_refused(labels, tmp_path):
    pytest.importorskip("vtk")
    path = tmp_path / "cell.mhd"
    meta_image(path, labels)
    text = path.read_text()
    for change, sentence in (
        (("MET_UCHAR", "MET_USHORT"), "announces 1,024 bytes, but cell.data has 512"),
        (("DimSize = 8 8 8", "DimSize = 8 8 4"), "announces 256 bytes, but cell.data has 512"),
        (("cell.data", "cell%02d.data 1 8 1"), "in several files"),
    ):
        path.write_text(text.replace(*change))
        with pytest.raises((OSError, ValueError), match=sentence):
            rlnlib.load_cell(path)


def test_nrrd_axes_that_are_not_at_right_angles_are_refused(labels, tmp_path):
    pytest.importorskip("nrrd")
    nrrd(tmp_path / "cell.nrrd", labels, "space directions: (1,0,0) (0.5,0.866,0) (0,0,1)")
    with pytest.raises(ValueError, match="right angles"):
        rlnlib.load_cell(tmp_path / "cell.nrrd")


def test_several_images_in_one_tiff_are_refused_not_the_first_taken(labels, tmp_path):
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(labels)
        file.write(labels[:5, :6, :6], photometric="minisblack")
    with pytest.raises(ValueError, match=r"2 images \(\(8, 8, 8\), \(5, 6, 6\)\)"):
        rlnlib.load_cell(tmp_path / "two.tif")


def dream3d(path, image, spacing=(1, 1, 1)):
    with h5py.File(path, "w") as file:
        file["DataContainers/Image/CellData/Phases"] = image[..., None]
        file["DataContainers/Image/_SIMPL_GEOMETRY/SPACING"] = np.array(spacing, np.float32)


SPACED = {
    "imagej.tif": lambda path, image: tifffile.imwrite(
        path, image, imagej=True, resolution=(2, 2), metadata={"axes": "ZYX", "spacing": 1.5, "unit": "um"}
    ),
    "unit_depth.tif": lambda path, image: tifffile.imwrite(  # ImageJ leaves out a distance of one unit
        path, image, imagej=True, resolution=(3, 3), metadata={"axes": "ZYX", "unit": "um"}
    ),
    "pixels.tif": lambda path, image: tifffile.imwrite(
        path, image, imagej=True, metadata={"axes": "ZYX", "spacing": 3.0}
    ),
    "ome.ome.tif": lambda path, image: tifffile.imwrite(
        path,
        image,
        metadata={
            "axes": "ZYX",
            "PhysicalSizeX": 500,
            "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 0.5,
            "PhysicalSizeYUnit": "µm",
            "PhysicalSizeZ": 1.5,
            "PhysicalSizeZUnit": "µm",
        },
    ),
    "positions.ome.tif": lambda path, image: positioned(path, image, 1.5 * np.arange(8) - 3),
    "phases.dream3d": lambda path, image: dream3d(path, image, (0.5, 0.5, 1.5)),
    "cell.nrrd": lambda path, image: nrrd(path, image, "space directions: (1.5,0,0) (0,0.5,0) (0,0,0.5)"),
    "spacings.nrrd": lambda path, image: nrrd(path, image, "spacings: 1.5 0.5 0.5"),
    "thick.nrrd": lambda path, image: nrrd(path, image, "spacings: nan 0.5 0.5\nthicknesses: 1.5 nan nan"),
    "corners.nrrd": lambda path, image: nrrd(path, image, "axis mins: 0 0 0\naxis maxs: 12 4 4"),
    "tifffile.tif": lambda path, image: tifffile.imwrite(
        path, image, resolution=(2, 2), metadata={"axes": "ZYX", "spacing": 1.5}
    ),
    "attribute.h5": lambda path, image: hdf5(path, image, lambda file: file["cell"].attrs, "voxel_size"),
    "root.h5": lambda path, image: hdf5(path, image, lambda file: file.attrs, "Spacing"),
    "beside.h5": lambda path, image: hdf5(path, image, lambda file: file, "resolution"),
    "beside.npz": lambda path, image: np.savez(path, cell=image, spacing=np.array((1.5, 0.5, 0.5))),
    "slices_ome": lambda path, image: write_slices(
        path, image, "s{}.ome.tif", metadata={"axes": "YX", **dict(zip(OME_EDGES, (0.5, 0.5, 1.5), strict=True))}
    ),
    "slices_imagej": lambda path, image: write_slices(
        path, image, "s{}.tif", imagej=True, resolution=(2, 2), metadata={"axes": "YX", "spacing": 1.5, "unit": "um"}
    ),
    "cell.mhd": lambda path, image: meta_image(path, image, "ElementSpacing = 1.5 0.5 0.5"),
    "cell.vti": lambda path, image: path.write_text(xml(image, spacing=(1.5, 0.5, 0.5))),
    "cell.vtk": lambda path, image: path.write_text(rectilinear(image, (1.5, 0.5, 0.5))),
}


OME_EDGES = ("PhysicalSizeX", "PhysicalSizeY", "PhysicalSizeZ")


def positioned(path, image, positions, unit="µm"):
    """An OME-TIFF that says where its planes are, but not how thick they are."""
    planes = {"PositionZ": list(positions), "PositionZUnit": [unit] * len(positions)}
    size = dict.fromkeys(OME_EDGES[:2], 0.5)
    tifffile.imwrite(path, image, metadata={"axes": "ZYX", **size, "Plane": planes})


def test_planes_by_their_positions_have_to_be_at_equal_distances(labels, tmp_path):
    path = tmp_path / "cell.ome.tif"
    positioned(path, labels, 500 * np.arange(8)[::-1], "nm")  # downwards
    assert rlnlib.load_cell(path, return_spacing=True)[1] == pytest.approx((0.5, 0.5, 0.5))
    positioned(path, labels, [3.0] * 8)  # a stage that stood still
    assert rlnlib.load_cell(path, return_spacing=True)[1] == pytest.approx((0.5, 0.5, 0.5))
    positioned(path, labels, [0, 1, 2, 3, 4, 5, 6, 9])
    with pytest.raises(OSError, match=r"1 to 3 apart by their PositionZ"):
        rlnlib.load_cell(path)


@pytest.mark.parametrize("key", ["NDims", "DimSize", "ElementType", "ElementSpacing", "ElementDataFile"])
def test_a_key_of_a_meta_image_in_other_letters_is_named_not_left_out(key, labels, tmp_path):
    pytest.importorskip("vtk")
    path = tmp_path / "cell.mhd"
    meta_image(path, labels, "ElementSpacing = 1.5 0.5 0.5")
    path.write_text(path.read_text().replace(key, key.lower()))
    with pytest.raises(ValueError, match=rf"{key.lower()} in its header, which VTK would leave out: write {key}"):
        rlnlib.load_cell(path, return_spacing=True)


def hdf5(path, image, place, name):
    with h5py.File(path, "w") as file:
        file["cell"] = image
        place(file)[name] = np.array((1.5, 0.5, 0.5))


def nrrd(path, image, line="spacings: 1 1 1"):
    sizes = " ".join(map(str, image.shape))
    header = f"NRRD0004\ntype: uchar\ndimension: 3\n{'space dimension: 3' if 'directions' in line else ''}"
    header = "\n".join(part for part in (header + f"\nsizes: {sizes}\nencoding: raw\n{line}").split("\n") if part)
    path.write_bytes(header.encode() + b"\n\n" + image.astype(np.uint8).tobytes(order="F"))


def meta_image(path, image, line="ElementSpacing = 1 1 1"):
    image.astype(np.uint8).ravel(order="F").tofile(path.with_suffix(".data"))
    path.write_text(
        f"ObjectType = Image\nNDims = 3\nDimSize = {' '.join(map(str, image.shape))}\nElementType = MET_UCHAR\n{line}\n"
        f"ElementDataFile = {path.with_suffix('.data').name}\n"
    )


def rectilinear(image, spacing, bend=0.0):
    lines = ["# vtk DataFile Version 3.0", "a cell", "ASCII", "DATASET RECTILINEAR_GRID"]
    lines.append("DIMENSIONS {} {} {}".format(*(n + 1 for n in image.shape)))
    for axis, n, step in zip("XYZ", image.shape, spacing, strict=True):
        steps = step * (np.arange(n + 1) + bend * np.arange(n + 1) ** 2)
        lines += [f"{axis}_COORDINATES {n + 1} float", " ".join(map(str, steps))]
    lines += [f"CELL_DATA {image.size}", "SCALARS Phases int 1", "LOOKUP_TABLE default"]
    return "\n".join([*lines, " ".join(map(str, image.ravel(order="F"))), ""])


@pytest.mark.parametrize("name", SPACED)
def test_planes_further_apart_than_pixels_are_refused_with_their_distance_or_handed_on(name, labels, cell, tmp_path):
    for module, part in (("nrrd", "nrrd"), ("vtk", ".vt"), ("vtk", ".mhd")):
        if part in name:
            pytest.importorskip(module)
    SPACED[name](tmp_path / name, labels)
    edges = (
        r"1 x 0\.333333 x 0\.333333" if "unit" in name else r"3 x 1 x 1" if "pixels" in name else r"1\.5 x 0\.5 x 0\.5"
    )
    with pytest.raises(ValueError, match=rf"{name} has voxels of {edges}.*spacing=spacing.*zoom"):
        rlnlib.load_cell(tmp_path / name)
    loaded, spacing = rlnlib.load_cell(tmp_path / name, return_spacing=True)
    assert np.array_equal(loaded, cell)
    assert np.allclose(np.array(spacing) / spacing[1], (3, 1, 1), rtol=1e-5)
    turned, spacing = rlnlib.load_cell(tmp_path / name, return_spacing=True, loading_axis=2)
    assert np.array_equal(turned, np.moveaxis(cell, 2, 0))
    assert np.allclose(np.array(spacing) / spacing[0], (1, 3, 1), rtol=1e-5)
    assert images.load_labels(tmp_path / name, return_spacing=True)[2][0] == pytest.approx(
        rlnlib.load_cell(tmp_path / name, return_spacing=True)[1][0]
    )


def test_the_line_that_the_refusal_gives_repeats_each_plane_as_often(labels, tmp_path):
    import scipy.ndimage

    SPACED["imagej.tif"](tmp_path / "cell.tif", labels)
    with pytest.raises(ValueError, match="no cubes") as refusal:
        rlnlib.load_cell(tmp_path / "cell.tif")
    line, edges = re.search(r"`(scipy[^`]*)` with edges = (\(.*\))", str(refusal.value)).groups()
    given = {"scipy": scipy, "image": labels, "edges": eval(edges)}
    assert np.array_equal(eval(line, given), np.repeat(labels, 3, axis=0))
    assert not np.array_equal(
        eval(line.replace("grid_mode=True, mode='nearest'", ""), given), np.repeat(labels, 3, axis=0)
    )


def test_pixels_that_are_no_squares_are_refused(labels, tmp_path):
    tifffile.imwrite(tmp_path / "cell.tif", labels, resolution=(100, 50))
    with pytest.raises(ValueError, match="no cubes"):
        rlnlib.load_cell(tmp_path / "cell.tif")
    write_slices(tmp_path / "scan", labels, "slice{}.tif")
    for n, plane in enumerate(labels, 1):
        tifffile.imwrite(tmp_path / "scan" / f"slice{n}.tif", plane, resolution=(100, 50))
    with pytest.raises(ValueError, match="no cubes"):
        rlnlib.load_cell(tmp_path / "scan")


def test_equal_spacing_of_any_size_and_a_distance_that_is_not_known_are_taken_as_cubes(labels, cell, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", labels, resolution=(72, 72), resolutionunit="INCH")
    assert rlnlib.load_cell(tmp_path / "a.tif", return_spacing=True)[1] == pytest.approx((1 / 72,) * 3)
    np.save(tmp_path / "b.npy", labels)
    assert rlnlib.load_cell(tmp_path / "b.npy", return_spacing=True)[1] == (1, 1, 1)


@pytest.mark.parametrize(
    ("shape", "options", "sentence"),
    [
        ((8, 8, 3), {"photometric": "rgb"}, r"axes YXS .*red, green and blue"),
        ((8, 8, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, r"axes YXS .*red, green and blue"),
        ((5, 8, 8, 3), {"photometric": "rgb"}, "axes QYXS .*red"),
        ((3, 8, 8), {"photometric": "rgb", "planarconfig": "separate"}, "axes SYX .*red"),
        ((2, 8, 8), {"imagej": True, "metadata": {"axes": "CYX"}}, "axes CYX .*channels"),
        ((5, 2, 8, 8), {"imagej": True, "metadata": {"axes": "ZCYX"}}, "axes ZCYX .*channels"),
        ((5, 8, 8), {"imagej": True, "metadata": {"axes": "TYX"}}, "axes TYX .*time"),
        ((2, 8, 8), {"ome": True, "metadata": {"axes": "CYX"}}, "axes CYX .*channels"),
    ],
)
def test_colours_channels_and_times_are_no_axes_of_space(shape, options, sentence, tmp_path):
    image = np.random.default_rng(0).choice([0, 255], shape).astype(np.uint8)
    tifffile.imwrite(tmp_path / "cell.tif", image, **{"photometric": "minisblack", **options})
    with pytest.raises(ValueError, match=rf"cell\.tif has the {sentence}"):
        rlnlib.load_cell(tmp_path / "cell.tif")


@pytest.mark.parametrize("axis", [0, 2])
def test_a_colour_picture_saved_as_an_array_is_no_cell_of_three_planes(axis, tmp_path):
    disc = np.hypot(*(np.mgrid[:32, :32] - 15.5)) < 9
    colours = np.stack([~disc, np.zeros_like(disc), disc], axis).astype(np.uint8) * 255
    np.save(tmp_path / "a.npy", colours)
    np.savez(tmp_path / "b.npz", colours)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["picture"] = colours
    for name in ("a.npy", "b.npz", "c.h5"):
        with pytest.raises(ValueError, match=rf"{name} has the shape .*axis {axis} of 3 .*colours"):
            rlnlib.load_cell(tmp_path / name)
    np.save(tmp_path / "extruded.npy", np.stack([disc] * 3, axis))
    assert rlnlib.load_cell(tmp_path / "extruded.npy").sum() == 3 * disc.sum()


@pytest.mark.parametrize("how", ["ilastik", "labels"])
def test_channels_that_an_hdf5_file_names_are_no_axis_of_space(how, labels, tmp_path):
    with h5py.File(tmp_path / "cell.h5", "w") as file:
        file["exported"] = labels
        if how == "ilastik":
            file["exported"].attrs["axistags"] = '{"axes": [{"key": "c"}, {"key": "y"}, {"key": "x"}]}'
        else:
            file["exported"].dims[0].label = "channel"
    with pytest.raises(ValueError, match=r"cell\.h5: the axes of '/exported' are \['c.*\(8, 8, 8\)"):
        rlnlib.load_cell(tmp_path / "cell.h5")


def test_a_colour_picture_is_refused_and_a_palette_gives_its_numbers(cell, labels, tmp_path):
    Image.fromarray(np.dstack([labels[0]] * 3)).save(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match=r"rgb\.png has the channels R, G, B.*convert\('L'\)"):
        rlnlib.load_cell(tmp_path / "rgb.png")
    palette = Image.fromarray(cell[0].astype(np.uint8))
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(rlnlib.load_cell(tmp_path / "palette.png")[..., 0], cell[0])


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "group4"])
def test_a_compressed_stack_of_another_program_is_read(compression, cell, tmp_path):
    pages = [Image.fromarray(plane.astype(np.uint8) * 255) for plane in cell]
    if compression == "group4":
        pages = [page.convert("1") for page in pages]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:], compression=compression)
    assert np.array_equal(rlnlib.load_cell(tmp_path / "stack.tif"), cell)


@pytest.mark.parametrize("label", [None, 255])
def test_jpeg_within_tiff_is_refused_since_it_changes_labels(label, cell, tmp_path):
    Image.fromarray(cell[0].astype(np.uint8) * 255).save(tmp_path / "cell.tif", compression="jpeg")
    with pytest.raises(ValueError, match=r"cell\.tif is compressed as JPEG"):
        rlnlib.load_cell(tmp_path / "cell.tif", stiff_label=label)


def test_labels_of_16_bits_in_lzw_keep_their_values(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    image = np.random.default_rng(0).choice([3, 300, 40000], (6, 6, 6)).astype(np.uint16)
    pages = [Image.fromarray(plane) for plane in image]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    found, values = images.load_labels(tmp_path / "stack.tif")
    assert values.tolist() == [3, 300, 40000] and np.array_equal(values[found], image)


def test_white_is_the_larger_value_also_where_a_file_stores_it_as_zero(cell, tmp_path):
    tifffile.imwrite(tmp_path / "white.tif", np.where(cell, 0, 255).astype(np.uint8), photometric="miniswhite")
    assert np.array_equal(rlnlib.load_cell(tmp_path / "white.tif"), cell)


@pytest.mark.skipif(importlib.util.find_spec("imagecodecs") is not None, reason="imagecodecs reads these")
@pytest.mark.parametrize("code", [50000, 34887])  # ZSTD, which Pillow knows, and LERC, which it does not
def test_a_compression_that_nothing_here_reads_is_named_with_its_package(code, labels, tmp_path):
    tifffile.imwrite(tmp_path / "cell.tif", labels)
    content = bytearray((tmp_path / "cell.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "cell.tif") as file:
        place = file.pages[0].tags["Compression"].valueoffset
    content[place : place + 2] = code.to_bytes(2, "little")
    (tmp_path / "cell.tif").write_bytes(content)
    with pytest.raises(ImportError, match=r"cell\.tif needs the package imagecodecs: .*\[images\]"):
        rlnlib.load_cell(tmp_path / "cell.tif")


def test_a_picture_is_a_cell_under_plane_strain(tmp_path):
    disc = np.hypot(*(np.mgrid[:12, :12] - 5.5)) < 4
    for name, image in (("flat", disc), ("first", disc[None]), ("last", disc[..., None])):
        np.save(tmp_path / f"{name}.npy", image)
        assert np.array_equal(rlnlib.load_cell(tmp_path / f"{name}.npy"), np.repeat(disc[..., None], 2, 2))
    tifffile.imwrite(tmp_path / "flat.tif", disc.astype(np.uint8))
    loaded = rlnlib.load_cell(tmp_path / "flat.tif", loading_axis=1)
    expected = rlnlib.solve_strain(disc.T, 10.0).effective_stress
    assert np.allclose(rlnlib.solve_strain(loaded, 10.0).effective_stress, expected)


def test_files_of_other_programs_are_read(cell, tmp_path):
    labels = cell.astype(np.uint8)
    labels.astype(">u2").tofile(tmp_path / "cell.raw")
    assert np.array_equal(rlnlib.load_cell(tmp_path / "cell.raw", shape=(8, 8, 8), dtype=">u2"), cell)
    dream3d(tmp_path / "cell.dream3d", labels)
    assert np.array_equal(rlnlib.load_cell(tmp_path / "cell.dream3d"), cell)
    with h5py.File(tmp_path / "cell.h5", "w") as file:
        file["a"], file["b/c"], file["table"] = labels, 1 - labels, np.zeros((3, 2))
    assert np.array_equal(rlnlib.load_cell(tmp_path / "cell.h5", array="/b/c"), ~cell)
    with pytest.raises(ValueError, match=r"arrays \['a', 'b/c'\]: name"):
        rlnlib.load_cell(tmp_path / "cell.h5")
    (tmp_path / "png").mkdir()
    for n, plane in enumerate(labels):
        Image.fromarray(plane * 255).save(tmp_path / "png" / f"s{n}.png")
    assert np.array_equal(rlnlib.load_cell(tmp_path / "png"), cell)


def test_files_that_packages_read_are_read(tmp_path):
    image = np.random.default_rng(0).choice([0, 4], (7, 5, 4)).astype(np.uint8)
    pytest.importorskip("vtk")
    meta_image(tmp_path / "cell.mhd", image)
    (tmp_path / "cell.vtk").write_text(rectilinear(image, (0.25, 0.25, 0.25)))
    for name in ("cell.mhd", "cell.vtk"):
        assert np.array_equal(rlnlib.load_cell(tmp_path / name), image == 4)
    (tmp_path / "bent.vtk").write_text(rectilinear(image, (0.25, 0.25, 0.25), bend=0.1))
    with pytest.raises(ValueError, match=r"bent\.vtk is a rectilinear grid of steps from"):
        rlnlib.load_cell(tmp_path / "bent.vtk")
    pytest.importorskip("nrrd")
    nrrd(tmp_path / "cell.nrrd", image)
    assert np.array_equal(rlnlib.load_cell(tmp_path / "cell.nrrd"), image == 4)


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("a.nrrd", "nrrd", "images"), ("a.vtr", "vtkmodules.vtkIOXML", "vtk")]
)
def test_a_missing_package_is_named_with_its_extra(name, module, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_text("")
    with pytest.raises(ImportError, match=rf"{name} needs the package.*\[{extra}\]"):
        rlnlib.load_cell(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({}, ValueError, "shape=.*dtype="),
        ({"shape": (8, 8, 7), "dtype": "uint8"}, ValueError, "448 bytes, but .* has 512"),
        ({"shape": (8, 8, 8), "dtype": "uint16"}, ValueError, "1024 bytes"),
        ({"shape": "888", "dtype": "uint8"}, ValueError, "shape"),
        ({"shape": (8, -8, 8), "dtype": "uint8"}, ValueError, "shape"),
        ({"shape": (8, 8, 8), "dtype": "label"}, ValueError, "dtype"),
        ({"shape": (8, 8, 8), "dtype": "O"}, ValueError, "dtype"),
        ({"shape": (10**6,) * 3, "dtype": "uint8"}, ValueError, "has 512"),
        ({"array": "a"}, ValueError, "array"),
    ],
)
def test_a_raw_file_whose_size_is_not_that_of_the_shape_is_refused(options, error, sentence, cell, tmp_path):
    cell.tofile(tmp_path / "cell.raw")
    with pytest.raises(error, match=sentence):
        rlnlib.load_cell(tmp_path / "cell.raw", **options)


def test_parts_of_an_hdf5_image_that_were_never_written_are_not_taken_for_zeros(labels, tmp_path):
    with h5py.File(tmp_path / "cell.h5", "w") as file:
        data = file.create_dataset("cell", labels.shape, "u1", chunks=(1, 8, 8))
        data[:5] = labels[:5]
        file.create_dataset("never", labels.shape, "u1")
    for name in ("cell", "never"):
        with pytest.raises(ValueError, match="never written"):
            rlnlib.load_cell(tmp_path / "cell.h5", array=name)


@pytest.mark.parametrize("label", [[], (), "stiff", None, np.nan, 3, [1, 3], object()])
def test_a_stiff_label_that_no_voxel_has_is_refused(label, labels, tmp_path):
    np.save(tmp_path / "three.npy", np.where(labels > 0, np.arange(8) % 2 + 1, 0))
    with pytest.raises(ValueError, match=r"stiff_label"):
        rlnlib.load_cell(tmp_path / "three.npy", stiff_label=label)


@pytest.mark.parametrize(
    "change",
    [{"loading_axis": 3}, {"loading_axis": "x"}, {"loading_axis": True}, {"return_spacing": "no"}, {"path": 7}],
)
def test_odd_arguments_are_refused_by_name(change, labels, tmp_path):
    np.save(tmp_path / "cell.npy", labels)
    with pytest.raises(ValueError, match=next(iter(change))):
        rlnlib.load_cell(**{"path": tmp_path / "cell.npy", **change})


# Files that lie about their size, or that break their reader.


def vti_of(extent):
    array = '<CellData><DataArray type="UInt8" Name="p" format="ascii"></DataArray></CellData>'
    return (
        f'<?xml version="1.0"?><VTKFile type="ImageData" version="0.1"><ImageData WholeExtent="{extent}" '
        f'Origin="0 0 0" Spacing="1 1 1"><Piece Extent="{extent}">{array}</Piece></ImageData></VTKFile>'
    )


HOSTILE = {
    "huge.vti": vti_of("0 100000 0 100000 0 100000"),
    "wide.vti": vti_of("-2000000000 2000000000 0 1 0 1"),
    "huge.vtk": "# vtk DataFile Version 3.0\na\nASCII\nDATASET STRUCTURED_POINTS\nDIMENSIONS 100000 100000 100000\n"
    "ORIGIN 0 0 0\nSPACING 1 1 1\nPOINT_DATA 1000000000000000\nSCALARS a int 1\nLOOKUP_TABLE default\n1 0\n",
    "points.vtk": "# vtk DataFile Version 3.0\na\nASCII\nDATASET STRUCTURED_POINTS\nDIMENSIONS 2 2 2\n"
    "ORIGIN 0 0 0\nSPACING 1 1 1\nPOINT_DATA 8\nFIELD f 1\na 1 1000000000000 int\n1 0\n",
    "grid.vtk": "# vtk DataFile Version 3.0\na\nASCII\nDATASET RECTILINEAR_GRID\nDIMENSIONS 2 2 2\n"
    "X_COORDINATES 1000000000000 float\n0 1\n",
    "huge.mhd": "NDims = 3\nDimSize = 100000 100000 100000\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n",
    "huge.nrrd": "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 100000 100000 100000\nencoding: raw\n\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_announces_more_than_the_file_holds_is_refused_and_nothing_is_allocated(name, tmp_path):
    pytest.importorskip("nrrd" if "nrrd" in name else "vtk")
    (tmp_path / name).write_text(HOSTILE[name])
    with pytest.raises(OSError, match=name):
        rlnlib.load_cell(tmp_path / name)


def test_arrays_larger_than_their_file_or_than_the_memory_are_refused(labels, tmp_path):
    for name, shape in (("liar.npy", (10**5,) * 3), ("small_liar.npy", (9, 8, 8))):
        with open(tmp_path / name, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            file.write(labels.tobytes())
    with open(tmp_path / "sparse.npy", "wb") as file:  # as large as it says, and empty
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (2**13,) * 3})
        file.truncate(file.tell() + 2**39)
    np.savez(tmp_path / "liar.npz", cell=labels)
    shutil.copy(tmp_path / "liar.npy", tmp_path / "cell.npy")
    import zipfile

    with zipfile.ZipFile(tmp_path / "liar.npz", "w") as archive:
        archive.write(tmp_path / "liar.npy", "cell.npy")
    tifffile.imwrite(tmp_path / "big.tif", labels)
    with tifffile.TiffFile(tmp_path / "big.tif", mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[tag].overwrite(10**6)
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("cell", (10**5,) * 3, "u1", chunks=(64, 64, 64))
    for name in ("liar.npy", "small_liar.npy", "sparse.npy", "liar.npz", "big.tif", "huge.h5"):
        with pytest.raises(OSError, match=name):
            rlnlib.load_cell(tmp_path / name)


@pytest.mark.parametrize("kind", ["npy", "npz", "tif", "png", "h5", "nrrd", "mhd", "vti", "vtr", "vtk"])
@pytest.mark.parametrize("content", [b"", b"no image", bytes(range(256)) * 8])
def test_a_file_of_anything_is_refused_by_its_name(kind, content, tmp_path):
    name = f"a.{kind}"
    pytest.importorskip({"nrrd": "nrrd", "mhd": "vtk", "vti": "vtk", "vtr": "vtk", "vtk": "vtk"}.get(kind, "numpy"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OSError, match=name):
        rlnlib.load_cell(tmp_path / name)


def test_a_kind_that_is_not_read_is_told_the_line_that_converts_it(tmp_path):
    for name, sentence in (("a.jpg", "JPEG changes"), ("a.nii", "nibabel"), ("a.mat", "loadmat"), ("a.xyz", "unknown")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(OSError, match=sentence):
            rlnlib.load_cell(tmp_path / name)


def test_a_file_that_may_not_be_read_gets_the_systems_own_reason(labels, tmp_path, monkeypatch):
    import builtins

    np.save(tmp_path / "cell.npy", labels)
    original = builtins.open

    def refused(name, *arguments, **options):
        if str(name).endswith("cell.npy"):
            raise PermissionError(13, "Permission denied", str(name))
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "open", refused)
    with pytest.raises(PermissionError, match=r"Permission denied.*cell\.npy") as caught:
        rlnlib.load_cell(tmp_path / "cell.npy")
    assert "truncated" not in str(caught.value)
