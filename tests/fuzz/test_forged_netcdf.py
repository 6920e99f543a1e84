"""netCDF files that are made to harm: with a checksum that is right, and with other files of the user in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from fuzz_readers import cube_bytes

import polystab as ps
from polystab.cube import known_files, netcdf_check, store
from polystab.cube.describe import cube_facts
from polystab.errors import CubeTooLargeError, NotACubeError
from polystab.testing import synthetic_cube

SECRET = b"-----BEGIN PRIVATE KEY-----".ljust(64, b"x")
CRASH = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"


def sealed(content: bytes) -> bytes:
    """The content with a checksum that is right, as anybody can make it."""
    return content + store.SEAL % zlib.crc32(content)


def unsealed() -> bytes:
    return cube_bytes()[: -len(store.SEAL % 0)]


@pytest.fixture
def foreign(tmp_path: Path, record: Path) -> Path:
    """A sound cube from elsewhere, with its checksum."""
    path = tmp_path / "foreign.nc"
    path.write_bytes(sealed(unsealed()))
    record.unlink(missing_ok=True)  # it was made here, in truth
    return path


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that another process looked at: it finds them all sound."""
    seen: list[str] = []

    def look(path: str, depth: str) -> tuple[int, bytes]:
        seen.append(f"{depth} of {Path(path).name}")
        return 0, b""

    monkeypatch.setattr(netcdf_check, "_look_apart", look)
    return seen


def reopened(path: Path) -> None:
    """Open as another process would: nothing is kept of what this one has seen."""
    netcdf_check._fault.cache_clear()
    ps.open_cube(path).close()


class TestTheLook:
    @pytest.mark.slow
    @pytest.mark.parametrize("content", [unsealed, lambda: sealed(unsealed())], ids=["unsealed", "sealed"])
    def test_comes_first_whatever_the_checksum_says(
        self, tmp_path: Path, content: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch, record: Path
    ) -> None:
        (tmp_path / "cube.nc").write_bytes(content())
        record.unlink(missing_ok=True)
        monkeypatch.setattr(netcdf_check, "_LOOK", CRASH)
        with pytest.raises(NotACubeError, match=r"crashes netCDF-C \(signal 11\)"):
            ps.open_cube(tmp_path / "cube.nc")

    @pytest.mark.slow
    @pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited as Linux does")
    def test_takes_no_more_memory_than_it_may(self, foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(netcdf_check, "MOST_MEMORY", 2**20)
        with pytest.raises(NotACubeError, match="cannot be opened"):
            ps.open_cube(foreign)

    @pytest.mark.slow
    def test_passes_what_other_tools_write(self, tmp_path: Path) -> None:
        (tmp_path / "cube.nc").write_bytes(cube_bytes(tool="contiguous"))
        ps.open_tree(tmp_path / "cube.nc").close()


class TestWhatIsKnown:
    def test_a_file_is_looked_at_once(self, foreign: Path, looks: list[str]) -> None:
        reopened(foreign)
        reopened(foreign)
        assert looks == ["everything of foreign.nc"]

    def test_a_copy_of_a_known_file_is_known(self, foreign: Path, looks: list[str], tmp_path: Path) -> None:
        reopened(foreign)
        shutil.copy(foreign, tmp_path / "copy.nc")
        reopened(tmp_path / "copy.nc")
        assert looks == ["everything of foreign.nc"]

    def test_a_file_that_changed_is_looked_at_again(self, foreign: Path, looks: list[str]) -> None:
        reopened(foreign)
        status = foreign.stat()
        foreign.write_bytes(unsealed())
        os.utime(foreign, ns=(status.st_atime_ns, status.st_mtime_ns))
        reopened(foreign)
        assert len(looks) == 2

    def test_a_refused_file_is_not_known(self, foreign: Path, monkeypatch: pytest.MonkeyPatch, record: Path) -> None:
        monkeypatch.setattr(netcdf_check, "_look_apart", lambda *_: (1, b"broken"))
        with pytest.raises(NotACubeError, match="broken"):
            ps.open_cube(foreign)
        assert not record.exists()

    def test_what_is_saved_here_is_known(self, looks: list[str], tmp_path: Path) -> None:
        ps.save_cube(synthetic_cube(n_seeds=2, steps=[0, 1], rng=0), tmp_path / "cube.nc")
        reopened(tmp_path / "cube.nc")
        assert looks == []

    def test_a_bundled_cube_is_known_wherever_it_lies(
        self, looks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(known_files, "record_path", lambda: tmp_path / "no" / "folder" / "\0")
        ps.load_cube("demo").close()
        shutil.copy(Path(ps.__file__).parent / "cube" / "data" / "demo.nc", tmp_path / "mine.nc")
        reopened(tmp_path / "mine.nc")
        assert looks == []

    def test_a_damaged_copy_of_a_bundled_cube_is_refused_by_its_checksum(
        self, looks: list[str], tmp_path: Path
    ) -> None:
        content = bytearray((Path(ps.__file__).parent / "cube" / "data" / "demo.nc").read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "mine.nc").write_bytes(content)
        with pytest.raises(NotACubeError, match="its checksum does not match"):
            ps.open_cube(tmp_path / "mine.nc")
        assert looks == []

    def test_a_large_file_is_known_by_its_place_and_change(
        self, foreign: Path, looks: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(known_files, "READ_WHOLE", 10)
        monkeypatch.setattr(store, "SEALED_BYTES", 10)
        reopened(foreign)
        reopened(foreign)
        assert looks == ["labels of foreign.nc"]
        foreign.write_bytes(foreign.read_bytes())
        reopened(foreign)
        assert len(looks) == 2


class TestTheRecord:
    def test_is_for_the_user_alone(self, foreign: Path, looks: list[str], record: Path) -> None:
        reopened(foreign)
        assert record.stat().st_mode & 0o077 == 0

    def test_is_not_believed_where_others_may_have_written_to_it(
        self, foreign: Path, looks: list[str], record: Path
    ) -> None:
        record.write_text(known_files.file_key(foreign) + "\n")
        record.chmod(0o666)
        reopened(foreign)
        assert len(looks) == 1

    def test_is_not_written_through_a_link(self, foreign: Path, looks: list[str], record: Path, tmp_path: Path) -> None:
        (tmp_path / "precious").write_text("mine")
        record.symlink_to(tmp_path / "precious")
        reopened(foreign)
        assert (tmp_path / "precious").read_text() == "mine"

    def test_that_cannot_be_written_keeps_nobody_from_opening(
        self, foreign: Path, looks: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setattr(known_files, "record_path", lambda: tmp_path / "file" / "record")
        ps.open_cube(foreign).close()
        ps.open_cube(foreign).close()
        assert len(looks) == 1  # within one process, at least

    @pytest.mark.parametrize("umask", [0o022, 0o002, 0o000])
    def test_forgets_its_older_half_when_it_is_long(
        self, record: Path, monkeypatch: pytest.MonkeyPatch, umask: int
    ) -> None:
        monkeypatch.setattr(known_files, "LONGEST_RECORD", 650)
        keys = [f"{number:064x}" for number in range(12)]
        before = os.umask(umask)
        try:
            for key in keys:
                known_files.remember(key)
        finally:
            os.umask(before)
        assert [key for key in keys if known_files.is_known(key)] == keys[-6:]

    def test_of_damaged_text_knows_nothing(self, record: Path) -> None:
        record.write_bytes(bytes(range(256)))
        record.chmod(0o600)
        assert not known_files.is_known("0" * 64)

    @pytest.mark.slow
    def test_keeps_every_line_of_processes_that_write_at_once(self, record: Path) -> None:
        script = textwrap.dedent(f"""
            import sys
            from pathlib import Path
            from polystab.cube import known_files
            known_files.record_path = lambda: Path({str(record)!r})
            for number in range(200):
                known_files.remember(f"{{sys.argv[1]:0>32}}{{number:032x}}")
        """)
        workers = [subprocess.Popen([sys.executable, "-c", script, str(worker)]) for worker in range(3)]
        assert [worker.wait() for worker in workers] == [0, 0, 0]
        assert sorted(record.read_text().split()) == sorted(
            f"{worker:0>32}{number:032x}" for worker in range(3) for number in range(200)
        )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="open files are limited as POSIX does")
class TestOtherFiles:
    """HDF5 reads other files where one says so; a report of it would show them."""

    @pytest.fixture
    def forged(self, tmp_path: Path) -> Callable[[str], Path]:
        h5py = pytest.importorskip("h5py")
        cube = synthetic_cube(n_seeds=2, steps=[0, 1, 2, 3], rng=0).isel(metric=[0], model=[0])
        (tmp_path / "secret").write_bytes(SECRET * 2)

        def forge(kind: str) -> Path:
            path = tmp_path / f"{kind}.nc"
            cube.to_netcdf(path, engine="netcdf4")
            shape = cube["value"].shape
            with h5py.File(tmp_path / "other.h5", "w") as other:
                other["value"] = np.full(shape, 7.0)
            with h5py.File(path, "r+") as file:
                attrs = dict(file["value"].attrs)
                del file["value"]
                if kind == "external":
                    made = file.create_dataset("value", shape, "f8", external=[(str(tmp_path / "secret"), 0, 128)])
                elif kind == "virtual":
                    layout = h5py.VirtualLayout(shape, "f8")
                    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "value", shape=shape)
                    made = file.create_virtual_dataset("value", layout)
                else:
                    file["value"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/value")
                    return path
                made.attrs.update({name: said for name, said in attrs.items() if name in ("units", "long_name")})
                for axis, dim in enumerate(("model", "seed", "step", "metric")):
                    made.dims[axis].attach_scale(file[dim])
            return path

        return forge

    @pytest.mark.parametrize("kind", ["external", "virtual", "link"])
    def test_netcdf_itself_would_read_them(self, forged: Callable[[str], Path], kind: str) -> None:
        with netCDF4.Dataset(forged(kind)) as file:
            file.set_auto_maskandscale(False)
            values = file["value"][...]
        assert values.tobytes().startswith(SECRET) or (values == 7).all()

    @pytest.mark.parametrize("kind", ["external", "virtual", "link"])
    @pytest.mark.parametrize("opener", [ps.open_cube, ps.open_tree, store.validate_file])
    def test_are_not_read_however_the_file_is_opened(
        self, forged: Callable[[str], Path], kind: str, opener: Callable[[Path], object]
    ) -> None:
        path = forged(kind)
        path.write_bytes(sealed(path.read_bytes()))
        with pytest.raises(
            NotACubeError, match=r"other file|in another file|cannot be opened as netCDF: OSError"
        ) as caught:
            opener(path)
        assert "PRIVATE" not in str(caught.value)

    @pytest.mark.parametrize("kind", ["external", "virtual"])
    def test_are_not_read_from_a_large_file_either(
        self, forged: Callable[[str], Path], kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store, "SEALED_BYTES", 10)
        with pytest.raises(NotACubeError, match=r"other file|in another file"):
            ps.open_cube(forged(kind))


@pytest.mark.slow
def test_ten_thousand_million_cells_that_were_never_written_are_opened_and_not_read(
    tmp_path: Path, record: Path
) -> None:
    """To open the file takes no memory; what reads the values part by part says that one part is too large."""
    cube = synthetic_cube(n_seeds=2, steps=[0, 1], rng=0).isel(metric=[0], model=[0])
    large = cube.drop_vars(["value", "stderr", "weight_seed", "data_seed"]).isel(seed=0, step=0, drop=True)
    labels = {"seed": np.arange(100_000), "step": np.arange(100_000)}
    large.assign_coords(labels).to_netcdf(tmp_path / "cube.nc", engine="netcdf4")
    with netCDF4.Dataset(tmp_path / "cube.nc", "a") as file:
        dims = ("model", "seed", "step", "metric")
        file.createVariable("value", "f8", dims, fill_value=np.nan, zlib=True, chunksizes=(1, 1, 100_000, 1))
        file["value"].setncatts({"long_name": "measured value"})
    assert (tmp_path / "cube.nc").stat().st_size < 2_000_000
    with ps.open_cube(tmp_path / "cube.nc") as opened:
        assert opened["value"].size == 10**10
        assert np.isnan(opened["value"][0, 0, 0, 0].item())
        with pytest.raises(CubeTooLargeError, match=r"one metric of the cube would take 74\.5 GiB"):
            cube_facts(opened)
