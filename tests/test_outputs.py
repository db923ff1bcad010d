"""Outputs replace neither inputs nor files that this project did not write."""

import os
from pathlib import Path

import pytest

from crossformer_mm.utils.errors import UserError
from crossformer_mm.utils.outputs import check_outputs, check_place, is_output, unique_names, write_output


def write(path: Path, text: str = 'ours') -> None:
    write_output(path, lambda part: part.write_text(text))


@pytest.mark.parametrize(
    'place',
    ['images', 'images/a/b', 'linked', 'other/cam2', 'photos', 'missing/new', 'words.txt', 'hard.txt'],
)
def test_places_of_inputs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    for folder in ('images/cam1', 'other/cam2', 'photos'):
        (tmp_path / folder).mkdir(parents=True)
    for file in ('images/cam1/1.jpg', 'photos/2.jpg', 'words.txt'):
        (tmp_path / file).touch()
    (tmp_path / 'linked').symlink_to('images')
    (tmp_path / 'images/cam2').symlink_to('../other/cam2')
    (tmp_path / 'images/2.jpg').symlink_to('../photos/2.jpg')
    (tmp_path / 'images/again').symlink_to('.')
    (tmp_path / 'hard.txt').hardlink_to(tmp_path / 'words.txt')
    monkeypatch.chdir(tmp_path / 'other')
    inputs = [tmp_path / 'images', '../words.txt', tmp_path / 'missing']
    what = '.*(contains the data|is an input of this run); choose another place'
    with pytest.raises(UserError, match=rf'^--out \.\./{place}: {what}$'):
        check_place('--out', f'../{place}', inputs)
    for free in ('../photos/drawn', '../images2', '../new.txt'):
        check_place('--out', free, inputs)
    for around in ('..', '.'):
        check_place('--work-dir', around, inputs, around=False)
    for below in ('../images/a', '../images/cam1'):
        check_place('--work-dir', below, inputs, around=False, inside=False)
    with pytest.raises(UserError, match=r'^--work-dir \.\./images: /.*images contains the data; choose'):
        check_place('--work-dir', '../images', inputs, around=False, inside=False)
    for around in ('..', '.'):
        with pytest.raises(UserError, match=rf'^--out {around}: contains the data /.*(images|cam2); choose'):
            check_place('--out', around, inputs)


def test_only_own_unchanged_files_are_replaced(tmp_path: Path) -> None:
    ours, theirs = tmp_path / 'new/ours.txt', tmp_path / 'theirs.txt'
    theirs.write_text('theirs')
    check_outputs('--out', [ours])
    write(ours)
    check_outputs('--out', [ours])
    write(ours, 'ours again')
    check_outputs('--out', [ours, tmp_path / 'free'])
    assert is_output(ours)
    assert not is_output(theirs)
    with pytest.raises(UserError, match=f'^--out: {theirs} exists, and was not written by this project'):
        check_outputs('--out', [ours, theirs])
    with pytest.raises(UserError, match='is an input of this run'):
        check_outputs('--out', [ours], inputs=[ours])
    with pytest.raises(UserError, match='is a folder'):
        check_outputs('--out', [tmp_path / 'new'])
    ours.write_text('ours AGAIN')
    os.utime(ours, (0, 0))
    with pytest.raises(UserError, match='has changed since'):
        check_outputs('--out', [ours])
    ours.unlink()
    ours.symlink_to(theirs)
    with pytest.raises(UserError, match='was not written by this project'):
        check_outputs('--out', [ours])


def test_a_list_that_was_cut_off_is_read(tmp_path: Path) -> None:
    write(tmp_path / 'first.txt')
    with (tmp_path / '.crossformer_mm').open('a') as file:
        file.write('\n1\n["first.txt", 1, 1]\n["cut.txt", 1')
    write(tmp_path / 'last.txt')
    assert is_output(tmp_path / 'first.txt')
    assert is_output(tmp_path / 'last.txt')


def test_names_are_unique() -> None:
    names = unique_names(['a', 'b/a', 'A', 'a', 'a-2', 'a-4', 'a'])
    assert names == ['a', 'b/a', 'A-2', 'a-3', 'a-2-2', 'a-4', 'a-5']
    assert unique_names(['x'] * 20_000)[-1] == 'x-20000'
