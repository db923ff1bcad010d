"""Finding files in folders as people have them; names from files in messages."""

import os
from pathlib import Path

from crossformer_mm.utils.files import files_in, remove_parts, write_atomically
from crossformer_mm.utils.text import shorten


def test_files_are_found_once_without_hidden_ones_loops_and_pipes(tmp_path: Path) -> None:
    for name in ('b/1.jpg', 'a/2.jpg', '.ipynb_checkpoints/1.jpg', 'a/.hidden.jpg', 'elsewhere/3.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'elsewhere').rename(tmp_path.with_name('elsewhere'))
    (tmp_path / 'a/all').symlink_to(tmp_path)
    (tmp_path / 'a/first').symlink_to(tmp_path / 'b')
    (tmp_path / 'broken').symlink_to('nothing')
    (tmp_path / 'itself').symlink_to('itself')
    (tmp_path / 'linked').symlink_to(tmp_path.with_name('elsewhere'))
    os.mkfifo(tmp_path / 'b/pipe')
    found = [str(path.relative_to(tmp_path)) for path in files_in(tmp_path)]
    assert found == ['a/2.jpg', 'b/1.jpg', 'linked/3.jpg']
    assert files_in(tmp_path / 'none') == []


def test_only_unused_temporary_files_of_this_project_are_removed(tmp_path: Path) -> None:
    theirs = ['.mine.part', '.a.0123456.part', '.0123abcd.part', 'a.0123abcd.part', '.a.txt.0123wxyz.part']
    for name in (*theirs, '.a.txt.0123abcd.part'):
        (tmp_path / name).touch()

    def save(part: Path) -> None:
        part.write_text('first half')
        child = os.fork()
        if not child:  # another process, such as a second training in the same folder
            remove_parts(tmp_path)
            os._exit(0)
        os.waitpid(child, 0)
        with part.open('r+') as file:
            file.write('complete  ')

    name = 'ä' * 120
    write_atomically(tmp_path / name, save)
    assert (tmp_path / name).read_text() == 'complete  '
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*theirs, name])


def test_long_names_do_not_fill_the_screen() -> None:
    assert shorten(['a', 'b' * 1_000_000, *'cdef']) == f'a, {"b" * 100}…{"b" * 99}, c, d and 2 more'
