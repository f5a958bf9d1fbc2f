"""Labels of CVAT and COCO: hand-worked files, files that must be refused, and there and back."""

import json
import zipfile
from pathlib import Path

import av
import check_data
import numpy as np
import pytest

from formats import cvat
from formats.own import read_csv
from video import open_video

META = """<version>1.1</version><meta><task><id>7</id><name>a walk</name><size>{size}</size>
<mode>interpolation</mode><original_size><width>200</width><height>100</height></original_size>
<source>walk.mp4</source><labels><label><name>person</name><attributes>
<attribute><name>wave</name><mutable>True</mutable><input_type>checkbox</input_type></attribute>
<attribute><name>moves</name><mutable>True</mutable><input_type>select</input_type></attribute>
<attribute><name>age</name><mutable>False</mutable><input_type>number</input_type></attribute>
</attributes></label><label><name>jump</name><attributes></attributes></label>
</labels></task></meta>"""


def box(frame: int, sides: str, wave="false", moves="__undefined__", outside=0) -> str:
    sides = " ".join(f'{side}="{x}"' for side, x in zip(cvat.SIDES, sides.split()))
    return (f'<box frame="{frame}" keyframe="1" outside="{outside}" occluded="0" {sides}>'
            f'<attribute name="wave">{wave}</attribute><attribute name="moves">{moves}</attribute>'
            '<attribute name="age">30</attribute></box>')


def jumper(number: int, *boxes: str) -> str:
    return f'<track id="{number}" label="jump">{"".join(boxes)}</track>'


# person 0 waves from frame 0, walks as well from 10 on, leaves at 20; person 1 jumps from 15 on
TRACKS = ('<track id="0" label="person">' + box(0, "0 0 100 50", "true")
          + box(10, "100 0 200 100", "true", "walk") + box(20, "100 50 200 100", outside=1)
          + "</track>"
          + jumper(1, '<box frame="15" outside="0" xtl="-20" ytl="10" xbr="20" ybr="60"/>'))


def write_xml(path, tracks: str, size: int | str = 30) -> str:
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
            picture = np.full((100, 200, 3), 8 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))
    return tmp_path


def test_cvat_becomes_the_annotations_csv_with_all_people_on_each_keyframe(folder):
    table = folder / "set" / "train.csv"
    assert cvat.import_labels([write_xml(folder / "a.xml", TRACKS)], table, every=0.5) == []
    assert table.read_text().splitlines() == ["video,keyframe,x1,y1,x2,y2,text,person", *(
        f"../walk.mp4,{row}" for row in (
            "0.001,0.000000,0.000000,0.500000,0.500000,wave,0",
            "0.501,0.250000,0.000000,0.750000,0.750000,wave,0",
            "1.001,0.500000,0.000000,1.000000,1.000000,wave,0",
            "1.001,0.500000,0.000000,1.000000,1.000000,walk,0",
            "1.501,0.500000,0.250000,1.000000,1.000000,wave,0",
            "1.501,0.500000,0.250000,1.000000,1.000000,walk,0",
            "1.501,0.000000,0.100000,0.100000,0.600000,jump,1",
            "2.001,0.000000,0.100000,0.100000,0.600000,jump,1",
            "2.501,0.000000,0.100000,0.100000,0.600000,jump,1"))]
    assert read_csv(table).texts == ["jump", "walk", "wave"]


def test_a_keyframe_means_the_frame_that_was_labelled(folder):
    cvat.import_labels([write_xml(folder / "a.xml", TRACKS)], folder / "train.csv", every=0.1)
    table, reader = read_csv(folder / "train.csv"), open_video(str(folder / "walk.mp4"))
    for frame, keyframe in enumerate(np.unique(table.keyframe)):                   # float32 seconds
        assert (reader.clip_at(float(keyframe), 1) == reader.clip(frame, 1)).all()


def test_keyframes_with_nobody_stay_and_idle_people_are_counted(folder):
    idle = box(5, "0 0 50 50") + box(10, "0 0 50 50", outside=1)
    short = jumper(3, box(11, "0 0 9 9"), box(12, "0 0 9 9", outside=1))
    once = jumper(4, box(10, "0 0 20 20"), box(11, "0 0 20 20", outside=1))
    late = jumper(5, box(20, "0 0 20 20"), box(22, "0 0 20 20", outside=1))
    tracks = f'<track id="0" label="person">{idle}</track>{short}{once}{late}'
    xml = write_xml(folder / "a.xml", tracks, size=15)
    faults = cvat.import_labels([xml], folder / "train.csv")
    lines = (folder / "train.csv").read_text().splitlines()
    assert lines[1:3] == ["walk.mp4,0.001", "walk.mp4,0.501"] and lines[3].endswith(",4")
    assert [fault.split(": ", 1)[1] for fault in faults] == [
        "labelled up to frame 14, but walk.mp4 has 30 frames; boxes lie on other frames if it "
        "was converted to another rate", "1 boxes of people without an action are left out",
        "track 3 lies between keyframes, 0.5 seconds apart",
        "track 5: its boxes on frames 20 to 20 are outside the labelled ones, 0 to 14"]


def test_the_zip_of_an_export_and_a_task_that_begins_late_are_read(tmp_path):
    write_xml(tmp_path / "annotations.xml", TRACKS, "4</size><start_frame>5</start_frame>"
              "<frame_filter>step=3</frame_filter><size>")
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("__MACOSX/._annotations.xml", b"\0\5")
        archive.write(tmp_path / "annotations.xml", "annotations.xml")
    one, = cvat.read_cvat(tmp_path / "export.zip")
    assert list(one.frames) == [5, 8, 11, 14]
    with zipfile.ZipFile(tmp_path / "export.zip", "a") as archive:
        archive.write(tmp_path / "annotations.xml", "b/annotations.XML")
    with pytest.raises(ValueError, match="zip: holds annotations.xml, b/annotations.XML; unpack"):
        cvat.read_cvat(tmp_path / "export.zip")


def test_tracks_of_a_project_go_to_their_tasks(tmp_path):
    tasks = "".join(f"<task><id>{i}</id><size>9</size><source>{i}.mp4</source></task>"
                    for i in (3, 5))
    tracks = "".join(f'<track id="{i}" label="run" task_id="{i}"><box frame="1" outside="0" '
                     f'xtl="0" ytl="0" xbr="{i}" ybr="9"/></track>' for i in (5, 3))
    (tmp_path / "a.xml").write_text(f"<annotations><meta><project><tasks>{tasks}</tasks></project>"
                                    f"</meta>{tracks}</annotations>")
    assert [(one.video, one.tracks) for one in cvat.read_cvat(tmp_path / "a.xml")] == [
        (f"{i}.mp4", {i: [(1, (0, 0, i, 9), ("run",))]}) for i in (3, 5)]


@pytest.mark.parametrize("content, fault", [
    ('<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><annotations/>', "DOCTYPE"),
    ("<annotations>\n<meta>\n</annotations>", "a.xml:3: not XML"),
    ("<annotations></annotations>", "no <meta>"),
    (f'<annotations>{META.format(size=3)}<image id="0"/></annotations>', "for video 1.1"),
    (f"<annotations>{META.format(size='many')}</annotations>", "<size> of task 7 is 'many'"),
    *((f"<annotations>{META.format(size=f'9</size>{more}<size>')}</annotations>", says)
      for more, says in (
          (f"<stop_frame>{'9' * 25}</stop_frame>", "<stop_frame> of task 7 is .* seven digits"),
          ("<start_frame>5</start_frame><stop_frame>2</stop_frame>", "a.xml: .* no frames: 5 to 2"),
          ("<frame_filter>step=0</frame_filter>", "has no frames: .* in steps of 0"))),
    (f"<annotations>{META.format(size=3)}{jumper(4, box(2, 'left 1 2 2'))}</annotations>",
     "track 4, frame 2: could not convert string to float: 'left'"),
    (f"<annotations>{META.format(size=3)}{jumper(4, box(2, '1 nan 2 2'))}</annotations>",
     "frame 2: .*upright box"),
    ('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a><annotations/>'.encode("utf-16"),
     "neither XML in UTF-8"),
])
def test_a_file_that_is_wrong_or_unsafe_is_refused_by_name(tmp_path, content, fault):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(ValueError, match=fault):
        cvat.read_cvat(tmp_path / "a.xml")


def test_files_beyond_the_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cvat, "LARGEST", 2 ** 20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations.xml", " " * (2 ** 20 + 1))
    (tmp_path / "a.json").write_text(" " * (2 ** 20 + 1))
    for read, name in ((cvat.read_cvat, "bomb.zip"), (cvat.read_coco, "a.json")):
        with pytest.raises(ValueError, match="more than 1 MB"):
            read(tmp_path / name)


def coco() -> dict:
    images = [{"id": 10 + i, "video_id": 1, "frame_id": 10 * i, "width": 200, "height": 100}
              for i in range(3)]
    attributes = {"track_id": 5, "occluded": True, "wave": True, "jump": False, "mood": "sing",
                  "does": ["wade", "sip"], "not": [], "age": 30}
    return {"videos": [{"id": 1, "name": "walk.mp4"}], "images": images,
            "categories": [{"id": 4, "name": "run"}], "annotations": [
                {"image_id": 10, "category_id": 4, "instance_id": 9, "bbox": [20, 10, 100, 50]},
                {"image_id": 12, "category_id": 4, "bbox": [0, 0, 200, 100],
                 "attributes": attributes}]}


def test_coco_becomes_the_annotations_csv(folder):
    (folder / "a.JSON").write_text(json.dumps(coco()))
    faults = cvat.import_labels([folder / "a.JSON"], folder / "train.csv")
    assert faults == [f"{folder / 'a.JSON'}: attribute age is a int, no word; left out"]
    assert (folder / "train.csv").read_text().splitlines()[1:] == [
        "walk.mp4,0.001,0.100000,0.100000,0.600000,0.600000,run,1",
        "walk.mp4,1.001",
        *(f"walk.mp4,2.001,0.000000,0.000000,1.000000,1.000000,{action},2"
          for action in ("wave", "sing", "wade", "sip"))]


@pytest.mark.parametrize("kind, i, new, says", [
    ("images", 1, {"frame_id": None}, "image 11: frame_id is a NoneType; expected int"),
    ("images", 1, {"frame_id": 0.7}, "image 11: frame_id is a float; expected int"),
    ("images", 1, {"frame_id": -4}, "image 11: frame_id is -4; expected 0 to"),
    ("images", 1, {"id": 10}, "images: id 10 is there twice"),
    ("images", 1, {"video_id": 5}, "image 11: video_id 5 is nowhere in the file"),
    ("images", 0, {"width": "200"}, "image 10: width is a str"),
    ("images", 1, {"width": 100, "height": 50}, "image 11: is 100x50, its video 200x100; boxes"),
    ("videos", 0, {"name": ["a"]}, "video 1: name is a list; expected str"),
    ("videos", 1, {"id": 1, "name": "b.mp4"}, "videos: id 1 is there twice"),
    ("categories", 0, {"name": 5}, "category 4: name is a int; expected str"),
    ("categories", 1, {"id": 4, "name": "walk"}, "categories: id 4 is there twice"),
    ("annotations", 1, {"bbox": [1, 2, float("nan"), 4]}, "annotation 1: bbox: a side is no"),
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


@pytest.mark.parametrize("box, says", [([0.1, 0.1, 0.5, 0.5], "are in [0, 1]; expected pixels"),
                                       ([120, 40, 180, 90], "or corners instead of those?")])
def test_coco_boxes_of_another_form_are_refused(folder, box, says):
    content = coco()
    for one in content["annotations"]:
        one["bbox"] = box
    (folder / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        cvat.import_labels([folder / "a.json"], folder / "train.csv")
    assert "a.json: " in str(error.value) and says in str(error.value)
    assert not (folder / "train.csv").exists()


def test_many_boxes_without_a_track_stay_one_entry_each_and_its_end(tmp_path):
    content = coco()
    content["annotations"] = [{"image_id": 10 + i % 3, "category_id": 4, "bbox": [0, 0, 9, 9]}
                              for i in range(300)]
    (tmp_path / "a.json").write_text(json.dumps(content))
    one, = cvat.read_coco(tmp_path / "a.json")
    assert [entry[0] for entry in one.tracks[1]] == [0, 10]
    assert sum(map(len, one.tracks.values())) == 500


def test_an_import_never_overwrites_another_file(folder):
    (folder / "train.csv").write_text("made by hand\n")
    xml = write_xml(folder / "a.xml", TRACKS)
    with pytest.raises(ValueError, match="train.csv: is there and says something else; remove it"):
        cvat.import_labels([xml], folder / "train.csv")
    assert (folder / "train.csv").read_text() == "made by hand\n"
    cvat.import_labels([xml], folder / "test.csv")
    cvat.import_labels([xml], folder / "test.csv")           # the same again is no harm


@pytest.mark.parametrize("tracks, times, side, says", [
    (TRACKS, 2, 100, "labels frame 0 of .*walk.mp4, as another before it; export the whole task"),
    (jumper(1, box(0, "0 0 9 9")) * 2, 1, 100,
     "not imported; .* refused: the row is there twice: walk.mp4"),
    (f'<track id="0" label="person">{box(0, "0 0 9 9", moves="a&#10;b")}</track>', 1, 100,
     "not imported; .*a line break inside a cell"),
    (f'<track id="0" label="person">{box(0, "0 0 9 9")}</track>', 1, 100, "nothing is labelled"),
    (jumper(1, box(0, "0 0 9 9"), box(0, "9 9 19 19")), 1, 100, "track 1, frame 0: has two boxes"),
    (TRACKS, 1, 150, "was labelled on a picture of 200x150, but .*walk.mp4 has 200x100")])
def test_an_import_that_would_be_wrong_writes_nothing(folder, tracks, times, side, says):
    xml = Path(write_xml(folder / "a.xml", tracks))
    xml.write_text(xml.read_text().replace("<height>100", f"<height>{side}"))
    with pytest.raises(ValueError, match=f"a.xml.*: {says}"):
        cvat.import_labels([xml] * times, folder / "train.csv")
    assert not list(folder.glob("train*"))


def test_our_tracks_come_back_equal_from_cvat(tmp_path):
    hostile = 'say "hi" & <wave>'
    tracks = {2: [(0, (1.5, 2, 30.125, 40), ("run", hostile)), (12, (3, 4, 50, 60), ())],
              7: [(5, (0, 0, 10, 10), ("run",)), (9, (0, 0, 20, 20), None),
                  (15, (5, 5, 9, 9), ("run",)), (29, (5, 5, 9, 9), ())]}
    cvat.write_cvat(tmp_path / "a.xml", "film & co.mp4", (200, 100), 30, tracks, ["run", hostile])
    one, = cvat.read_cvat(tmp_path / "a.xml")
    assert (one.video, one.size, one.frames) == ("film & co.mp4", (200, 100), range(30))
    ended = [*tracks[2], (13, (3, 4, 50, 60), None)]         # behind its last box a track ends
    assert one.tracks == tracks | {2: ended} and one.faults == []
    labels = json.loads((tmp_path / "a.labels.json").read_text())
    assert [attribute["name"] for attribute in labels[0]["attributes"]] == ["run", hostile]
    cvat.write_cvat(tmp_path / "b.xml", one.video, one.size, 30, one.tracks, ["run", hostile])
    assert cvat.read_cvat(tmp_path / "b.xml")[0] == one


def test_a_video_that_is_not_there_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="its video 'walk.mp4' is not in"):
        cvat.import_labels([write_xml(tmp_path / "a.xml", TRACKS)], tmp_path / "train.csv")
    assert not (tmp_path / "train.csv").exists()


def test_check_data_imports_an_export_and_draws_its_contact_sheet(folder, monkeypatch, capsys):
    xml = write_xml(folder / "a.xml", TRACKS + jumper(2, '<points frame="3" points="1,2"/>'))
    out = folder / "set"
    monkeypatch.setattr("sys.argv", ["check_data.py", "--import", xml, "--out", str(out)])
    assert check_data.main() == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "train.csv", "train_contact_sheet.png", "train_faults.txt"]
    fault = f"{xml}: track 2, frame 3: <points> is not a box\n"
    assert (out / "train_faults.txt").read_text().split("\n", 1)[1] == fault
    assert "scores 1.000000" in capsys.readouterr().out


def test_what_was_detected_becomes_tracks_at_the_frames_it_was_seen_on(folder):
    found = [(0.0, 1, (0, 0, 0.5, 0.5), {"run": 0.9, "wave": 0.1}),
             (0.5, 1, (0.5, 0.5, 1, 1), {"run": 0.2, "wave": 0.3}),
             (0.5, 4, (0, 0, 0.25, 1), {"run": 0.5, "wave": 0.6})]
    path, video = folder / "walk.cvat.xml", str(folder / "walk.mp4")
    cvat.export_tracks(path, video, found, ["run", "wave"], 0.5)
    one, = cvat.read_cvat(path)
    assert (one.video, one.size, one.frames) == ("walk.mp4", (200, 100), range(30))
    last = (100, 50, 200, 100)
    assert one.tracks == {1: [(0, (0, 0, 100, 50), ("run",)), (5, last, ()), (6, last, None)],
                          4: [(5, (0, 0, 50, 100), ("run", "wave")), (6, (0, 0, 50, 100), None)]}
