"""Labels of CVAT and COCO: hand-worked files, files that must be refused, and the way there and back."""

import json
import zipfile

import av
import numpy as np
import pytest

from formats import cvat
from formats.own import read_csv

META = """<version>1.1</version><meta><task><id>7</id><name>a walk</name><size>{size}</size>
<mode>interpolation</mode>
<original_size><width>200</width><height>100</height></original_size><source>walk.mp4</source><labels>
<label><name>person</name><attributes>
<attribute><name>wave</name><mutable>True</mutable><input_type>checkbox</input_type></attribute>
<attribute><name>moves</name><mutable>True</mutable><input_type>select</input_type></attribute>
<attribute><name>age</name><mutable>False</mutable><input_type>number</input_type></attribute></attributes></label>
<label><name>jump</name><attributes></attributes></label></labels></task></meta>"""


def box(frame: int, sides: str, wave="false", moves="__undefined__", outside=0) -> str:
    x1, y1, x2, y2 = sides.split()
    return (f'<box frame="{frame}" keyframe="1" outside="{outside}" occluded="0" xtl="{x1}" ytl="{y1}" xbr="{x2}" '
            f'ybr="{y2}" z_order="0"><attribute name="wave">{wave}</attribute>'
            f'<attribute name="moves">{moves}</attribute><attribute name="age">30</attribute></box>')


# person 0 waves from frame 0 and walks as well from 10 on, leaves at 20; person 1 jumps on frames 15 and later
TRACKS = ('<track id="0" label="person">' + box(0, "0 0 100 50", "true") + box(10, "100 0 200 100", "true", "walk")
          + box(20, "100 50 200 100", outside=1) + '</track><track id="1" label="jump">'
          '<box frame="15" keyframe="1" outside="0" occluded="1" xtl="-20" ytl="10" xbr="20" ybr="60"/></track>')


def write_xml(path, tracks: str, size: int = 30) -> str:
    content = f"<annotations>{META.format(size=size)}{tracks}</annotations>"
    path.write_text('<?xml version="1.0" encoding="utf-8"?>' + content)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """A folder with walk.mp4: 30 frames of 200 x 100 pixels, 10 a second."""
    with av.open(str(tmp_path / "walk.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 200, 100, "yuv420p"
        for i in range(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((100, 200, 3), 8 * i, np.uint8))))
        container.mux(stream.encode(None))
    return tmp_path


def test_boxes_are_interpolated_and_attributes_kept_until_the_next_box(tmp_path):
    one, = cvat.read_cvat(write_xml(tmp_path / "a.xml", TRACKS))
    assert (one.video, one.size, list(one.frames)) == ("walk.mp4", (200, 100), list(range(30)))
    assert list(cvat.boxes_on([0, 5, 15, 20, 29], one.tracks[0])) == [
        (0, (0, 0, 100, 50), ("wave",)), (5, (50, 0, 150, 75), ("wave",)),
        (15, (100, 25, 200, 100), ("wave", "walk"))]         # towards the box at which it leaves
    assert list(cvat.boxes_on(range(14, 30), one.tracks[1]))[-1] == (29, (-20, 10, 20, 60), ("jump",))    # until the end
    assert len(list(cvat.boxes_on(range(14, 30), one.tracks[1]))) == 15


def test_cvat_becomes_the_annotations_csv_with_all_people_on_each_keyframe(folder):
    faults = cvat.import_labels([write_xml(folder / "a.xml", TRACKS)], folder / "set" / "train.csv", every=0.5)
    lines = (folder / "set" / "train.csv").read_text().splitlines()
    assert faults == []
    assert lines == ["video,keyframe,x1,y1,x2,y2,text,person",
                     "../walk.mp4,0.001,0.000000,0.000000,0.500000,0.500000,wave,0",
                     "../walk.mp4,0.501,0.250000,0.000000,0.750000,0.750000,wave,0",
                     "../walk.mp4,1.001,0.500000,0.000000,1.000000,1.000000,wave,0",
                     "../walk.mp4,1.001,0.500000,0.000000,1.000000,1.000000,walk,0",
                     "../walk.mp4,1.501,0.500000,0.250000,1.000000,1.000000,wave,0",
                     "../walk.mp4,1.501,0.500000,0.250000,1.000000,1.000000,walk,0",
                     "../walk.mp4,1.501,0.000000,0.100000,0.100000,0.600000,jump,1",
                     "../walk.mp4,2.001,0.000000,0.100000,0.100000,0.600000,jump,1",
                     "../walk.mp4,2.501,0.000000,0.100000,0.100000,0.600000,jump,1"]
    table = read_csv(folder / "set" / "train.csv")
    assert table.texts == ["jump", "walk", "wave"] and len(table.keyframe_starts()) - 1 == 6


def test_a_keyframe_means_the_frame_that_was_labelled(folder):
    from video import open_video
    cvat.import_labels([write_xml(folder / "a.xml", TRACKS)], folder / "train.csv", every=0.1)
    table, reader = read_csv(folder / "train.csv"), open_video(str(folder / "walk.mp4"))
    for frame, keyframe in enumerate(np.unique(table.keyframe)):                   # float32 seconds
        assert (reader.clip_at(float(keyframe), 1) == reader.clip(frame, 1)).all()


def test_keyframes_with_nobody_stay_and_idle_people_are_counted(folder):
    track = '<track id="0" label="person">' + box(5, "0 0 50 50") + box(10, "0 0 50 50", outside=1) + "</track>"
    short = '<track id="3" label="jump">' + box(11, "0 0 9 9") + box(12, "0 0 9 9", outside=1) + "</track>"
    faults = cvat.import_labels([write_xml(folder / "a.xml", track + short, size=15)], folder / "train.csv")
    lines = (folder / "train.csv").read_text().splitlines()
    assert lines[1:] == ["walk.mp4,0.001", "walk.mp4,0.501", "walk.mp4,1.001"]
    assert [fault.split(": ", 1)[1] for fault in faults] == [
        "1 boxes of people without an action are left out",
        "track 3 lies between keyframes, which are 0.5 seconds apart"]


def test_the_zip_of_an_export_and_a_task_that_begins_late_are_read(tmp_path):
    write_xml(tmp_path / "annotations.xml", TRACKS)
    text = (tmp_path / "annotations.xml").read_text().replace(
        "<size>30</size>", "<size>4</size><start_frame>5</start_frame><frame_filter>step=3</frame_filter>")
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("annotations.xml", text)
    one, = cvat.read_cvat(tmp_path / "export.zip")
    assert list(one.frames) == [5, 8, 11, 14]


def test_tracks_of_a_project_go_to_their_tasks(tmp_path):
    tasks = "".join(f"<task><id>{i}</id><size>9</size><source>{i}.mp4</source></task>" for i in (3, 5))
    track = ('<track id="{0}" label="run" task_id="{0}">'
             '<box frame="1" outside="0" xtl="0" ytl="0" xbr="{0}" ybr="9"/></track>')
    (tmp_path / "a.xml").write_text(f"<annotations><meta><project><tasks>{tasks}</tasks></project></meta>"
                                    f"{track.format(5)}{track.format(3)}</annotations>")
    first, second = cvat.read_cvat(tmp_path / "a.xml")
    assert (first.video, first.tracks) == ("3.mp4", {3: [(1, (0, 0, 3, 9), ("run",))]})
    assert (second.video, second.tracks) == ("5.mp4", {5: [(1, (0, 0, 5, 9), ("run",))]})


@pytest.mark.parametrize("content, fault", [
    ('<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotations>&c;</annotations>', "DOCTYPE"),
    ("<annotations>\n<meta>\n</annotations>", "a.xml:3: not XML"),
    ("<annotations></annotations>", "no <meta>"),
    (f'<annotations>{META.format(size=3)}<image id="0"/></annotations>', "for video 1.1"),
    (f"<annotations>{META.format(size='many')}</annotations>", "<size> of task 7 is 'many'"),
    (f'<annotations>{META.format(size=3)}<track id="4" label="jump"><box frame="2" xtl="left"/></track>'
     "</annotations>", "track 4, frame 2: could not convert string to float: 'left'"),
    (f'<annotations>{META.format(size=3)}<track id="4" label="jump">'
     '<box frame="2" xtl="1" ytl="nan" xbr="2" ybr="2"/></track></annotations>', "frame 2: .*upright box"),
])
def test_a_file_that_is_wrong_or_unsafe_is_refused_by_name(tmp_path, content, fault):
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(ValueError, match=fault):
        cvat.read_cvat(tmp_path / "a.xml")


def test_entities_in_another_encoding_and_files_beyond_the_limit_are_refused(tmp_path, monkeypatch):
    (tmp_path / "a.xml").write_text('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a><annotations/>', "utf-16")
    with pytest.raises(ValueError, match="neither XML in UTF-8"):
        cvat.read_cvat(tmp_path / "a.xml")
    monkeypatch.setattr(cvat, "LARGEST", 2 ** 20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations.xml", " " * (2 ** 20 + 1))
    with pytest.raises(ValueError, match="more than 1 MB"):
        cvat.read_cvat(tmp_path / "bomb.zip")
    (tmp_path / "a.json").write_text(" " * (2 ** 20 + 1))
    with pytest.raises(ValueError, match="more than 1 MB"):
        cvat.read_coco(tmp_path / "a.json")


def coco() -> dict:
    return {"videos": [{"id": 1, "name": "walk.mp4"}],
            "images": [{"id": 10 + i, "video_id": 1, "frame_id": 10 * i, "width": 200, "height": 100}
                       for i in range(3)],
            "categories": [{"id": 4, "name": "run"}],
            "annotations": [
                {"id": 1, "image_id": 10, "category_id": 4, "instance_id": 9, "bbox": [20, 10, 100, 50]},
                {"id": 2, "image_id": 12, "category_id": 4, "bbox": [0, 0, 200, 100],
                 "attributes": {"track_id": 5, "occluded": True, "wave": True, "jump": False, "mood": "sing",
                                "age": 30}}]}


def test_coco_becomes_the_annotations_csv(folder):
    (folder / "a.json").write_text(json.dumps(coco()))
    assert cvat.import_labels([folder / "a.json"], folder / "train.csv") == []
    assert (folder / "train.csv").read_text().splitlines()[1:] == [
        "walk.mp4,0.001,0.100000,0.100000,0.600000,0.600000,run,1",
        "walk.mp4,1.001",
        "walk.mp4,2.001,0.000000,0.000000,1.000000,1.000000,wave,2",
        "walk.mp4,2.001,0.000000,0.000000,1.000000,1.000000,sing,2"]


@pytest.mark.parametrize("kind, i, new, says", [
    ("images", 1, {"frame_id": None}, "image 11: frame_id is a NoneType; expected int"),
    ("images", 1, {"frame_id": 0.7}, "image 11: frame_id is a float; expected int"),
    ("images", 1, {"frame_id": -4}, "image 11: frame_id is -4; expected 0 to"),
    ("images", 1, {"id": 10}, "images: id 10 is there twice"),
    ("images", 1, {"video_id": 5}, "image 11: video_id 5 is nowhere in the file"),
    ("images", 0, {"width": "200"}, "image 10: width is a str"),
    ("videos", 0, {"name": ["a"]}, "video 1: name is a list; expected str"),
    ("videos", 1, {"id": 1, "name": "b.mp4"}, "videos: id 1 is there twice"),
    ("categories", 0, {"name": 5}, "category 4: name is a int; expected str"),
    ("categories", 1, {"id": 4, "name": "walk"}, "categories: id 4 is there twice"),
    ("annotations", 1, {"bbox": [1, 2, float("nan"), 4]}, "annotation 1: bbox: a side is no number"),
    ("annotations", 1, {"bbox": "1234"}, "annotation 1: bbox is a str"),
    ("annotations", 1, {"bbox": [1, 2, 3]}, "annotation 1: bbox has 3 numbers"),
    ("annotations", 1, {"attributes": 5}, "annotation 1: attributes is a int; expected dict"),
    ("annotations", 2, {"image_id": 10, "category_id": 4, "instance_id": 9, "bbox": [0, 0, 9, 9]},
     "annotation 2: track 9 has two boxes on one image"),
])
def test_coco_that_is_wrong_names_the_record_and_its_field(tmp_path, kind, i, new, says):
    content = coco()
    content[kind][i:i + 1] = [(content[kind] + [{}])[i] | new]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        cvat.read_coco(tmp_path / "a.json")
    assert f"a.json: {says}" in str(error.value)


def test_many_boxes_without_a_track_stay_one_entry_each_and_its_end(tmp_path):
    content = coco()
    content["annotations"] = [{"image_id": 10 + i % 3, "category_id": 4, "bbox": [0, 0, 9, 9]} for i in range(300)]
    (tmp_path / "a.json").write_text(json.dumps(content))
    one, = cvat.read_coco(tmp_path / "a.json")
    assert [entry[0] for entry in one.tracks[1]] == [0, 10] and sum(map(len, one.tracks.values())) == 500


def test_an_import_never_overwrites_another_file(folder):
    (folder / "train.csv").write_text("made by hand\n")
    xml = write_xml(folder / "a.xml", TRACKS)
    with pytest.raises(ValueError, match="train.csv: is there and says something else; remove it"):
        cvat.import_labels([xml], folder / "train.csv")
    assert (folder / "train.csv").read_text() == "made by hand\n"
    cvat.import_labels([xml], folder / "test.csv")
    cvat.import_labels([xml], folder / "test.csv")           # the same again is no harm


def test_our_tracks_come_back_equal_from_cvat(tmp_path):
    hostile = 'say "hi" & <wave>'
    tracks = {2: [(0, (1.5, 2, 30.125, 40), ("run", hostile)), (12, (3, 4, 50, 60), ())],
              7: [(5, (0, 0, 10, 10), ("run",)), (9, (0, 0, 20, 20), None), (15, (5, 5, 9, 9), ("run",)),
                  (29, (5, 5, 9, 9), ())]}
    cvat.write_cvat(tmp_path / "a.xml", "film & co.mp4", (200, 100), 30, tracks, ["run", hostile])
    one, = cvat.read_cvat(tmp_path / "a.xml")
    assert (one.video, one.size, one.frames, one.faults) == ("film & co.mp4", (200, 100), range(30), [])
    assert one.tracks == tracks | {2: [*tracks[2], (13, (3, 4, 50, 60), None)]}    # behind its last box it ends
    labels = json.loads((tmp_path / "a.labels.json").read_text())
    assert [attribute["name"] for attribute in labels[0]["attributes"]] == ["run", hostile]
    cvat.write_cvat(tmp_path / "b.xml", one.video, one.size, 30, one.tracks, ["run", hostile])
    assert cvat.read_cvat(tmp_path / "b.xml")[0] == one


def test_a_video_that_is_not_there_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="its video 'walk.mp4' is not in"):
        cvat.import_labels([write_xml(tmp_path / "a.xml", TRACKS)], tmp_path / "train.csv")
    assert not (tmp_path / "train.csv").exists()


def test_check_data_imports_an_export_and_draws_its_contact_sheet(folder, monkeypatch, capsys):
    import check_data
    write_xml(folder / "a.xml", TRACKS + '<track id="2" label="jump"><points frame="3" points="1,2"/></track>')
    out = folder / "set"
    monkeypatch.setattr("sys.argv", ["check_data.py", "--import", str(folder / "a.xml"), "--out", str(out)])
    assert check_data.main() == 0
    assert sorted(path.name for path in out.iterdir()) == ["train.csv", "train_contact_sheet.png",
                                                          "train_faults.txt"]
    assert (out / "train_faults.txt").read_text() == f"{folder / 'a.xml'}: track 2, frame 3: <points> is not a box\n"
    assert "scores 1.000000" in capsys.readouterr().out


def test_what_was_detected_becomes_tracks_at_the_frames_it_was_seen_on(folder):
    found = [(0.0, 1, (0, 0, 0.5, 0.5), {"run": 0.9, "wave": 0.1}),
             (0.5, 1, (0.5, 0.5, 1, 1), {"run": 0.2, "wave": 0.3}),
             (0.5, 4, (0, 0, 0.25, 1), {"run": 0.5, "wave": 0.6})]
    cvat.export_tracks(folder / "walk.cvat.xml", str(folder / "walk.mp4"), found, ["run", "wave"], 0.5)
    one, = cvat.read_cvat(folder / "walk.cvat.xml")
    assert (one.video, one.size, one.frames) == ("walk.mp4", (200, 100), range(30))
    last = (100, 50, 200, 100)
    assert one.tracks == {1: [(0, (0, 0, 100, 50), ("run",)), (5, last, ()), (6, last, None)],
                          4: [(5, (0, 0, 50, 100), ("run", "wave")), (6, (0, 0, 50, 100), None)]}
    assert (folder / "walk.cvat.labels.json").exists()
