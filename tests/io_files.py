"""Small files of many formats, made on the fly for the tests of esmpy_jax.io."""

import importlib
import json
import warnings

import h5py
import numpy as np

WRITERS = {
    "hspy": "rsciio.hspy",
    "zspy": "rsciio.zspy",
    "rpl": "rsciio.ripple",
    "msa": "rsciio.msa",
    "emd": "rsciio.emd",
}

#: Strings among the numbers, as the readers of some makers leave them.
TEM = {
    "beam_energy": 200.0,
    "beam_current": "0.5",
    "Stage": {"tilt_alpha": "10.0", "tilt_beta": 1.5},
    "Detector": {
        "EDS": {
            "azimuth_angle": "45.000",
            "elevation_angle": 22.0,
            "energy_resolution_MnKa": 128.0,
            "live_time": "12.500000",
            "real_time": 20.0,
            "solid_angle": 0.7,
        }
    },
}


def counts(shape=(4, 6, 50), seed=0, mean=0.3, dtype=np.uint8):
    return np.random.default_rng(seed).poisson(mean, shape).astype(dtype)


def axis(name, size, scale=1.0, offset=0.0, units=None, navigate=True):
    return {
        "_type": "UniformDataAxis",
        "name": name,
        "size": size,
        "scale": scale,
        "offset": offset,
        "units": units,
        "navigate": navigate,
    }


def energy(size, scale=0.01, offset=0.5, units="keV", name="Energy"):
    return axis(name, size, scale, offset, units, navigate=False)


def signal(data, axes=None, *, tem=TEM, kind="EDS_TEM", title="EDS", elements=("O", "Fe"), **more):
    """A signal dictionary as RosettaSciIO's writers want it; axes default to (y, x, Energy)."""
    if axes is None:
        names = ("y", "x")[-(data.ndim - 1) :] if data.ndim > 1 else ()
        sizes = data.shape[:-1]
        scan = [axis(n, s, 2.5, units="nm") for n, s in zip(names, sizes, strict=True)]
        axes = [*scan, energy(data.shape[-1])]
    metadata = {
        "General": {"title": title},
        "Signal": {"signal_type": kind},
        "Acquisition_instrument": {"TEM": tem},
        "Sample": {"elements": list(elements)},
    }
    return {
        "data": data,
        "axes": axes,
        "metadata": metadata | more.pop("metadata", {}),
        "original_metadata": more.pop("original_metadata", {}),
        "attributes": {"_lazy": False},
        "tmp_parameters": {},
        "learning_results": {},
        "models": {},
        "package_info": {"package": "", "package_version": ""},
    }


def write(path, *signals):
    """Writes one signal, or for .hspy several signals into one file."""
    extension = path.suffix[1:]
    writer = importlib.import_module(WRITERS[extension])
    options = {"show_progressbar": False} if extension in ("hspy", "zspy") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer.file_writer(str(path), signals[0], **options)
    for other in signals[1:]:
        second = write(path.with_name("other.hspy"), other)
        title = other["metadata"]["General"]["title"]
        with h5py.File(second) as source, h5py.File(path, "a") as target:
            source.copy(f"Experiments/{title}", target["Experiments"])
    return path


def _json(value):
    return np.array([json.dumps(value).encode()], dtype=object)


def _column(value):
    return np.frombuffer(json.dumps(value).encode(), np.uint8)[:, None]


def velox(path, streams, *, azimuths=(45, 135), elevation=18.0, spectrum=None, pruned=False):
    """A minimal Velox file: one HAADF image and detector streams of shape (y, x, channel).

    A stream lists, pixel by pixel, the channel of each photon and 65535 for "next pixel".
    Angles are in radians, as Velox writes them.
    """
    ny, nx, channels = streams[0].shape
    detectors = {
        "Detector-0": {"DetectorName": "HAADF", "DetectorType": "ScanningDetector"},
    }
    for i, azimuth in enumerate(azimuths):
        detectors[f"Detector-{i + 1}"] = {
            "DetectorName": f"SuperXG2{i + 1}",
            "DetectorType": "AnalyticalDetector",
            "Enabled": "true",
            "ElevationAngle": str(np.radians(elevation)),
            "AzimuthAngle": str(np.radians(azimuth)),
            "CollectionAngle": "0.2",
            "LiveTime": str(9.0 + i),
            "RealTime": "12.0",
            "Dispersion": "10",
            "OffsetEnergy": "-30",
        }
    detectors["Detector-9"] = dict(
        detectors["Detector-1"], DetectorName="SuperXG29", Enabled="false", AzimuthAngle="5"
    )
    metadata = {
        "Core": {"MetadataDefinitionVersion": "7.9"},
        "Instrument": {"InstrumentClass": "Spectra"},
        "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1700000000"}},
        "Optics": {"AccelerationVoltage": "300000"},
        "Stage": {"AlphaTilt": "0.1", "BetaTilt": "0", "Position": {"x": 0, "y": 0, "z": 0}},
        "Scan": {"FrameTime": "1.0"},
        "CustomProperties": {},
        "Detectors": detectors,
        "BinaryResult": {
            "Detector": "SuperXG2",
            "PixelSize": {"width": "2e-9", "height": "2e-9"},
            "Offset": {"x": "0", "y": "0"},
            "PixelUnitX": "m",
            "PixelUnitY": "m",
        },
    }
    text = h5py.string_dtype()
    with h5py.File(path, "w") as f:
        f.create_dataset("Version", data=_json({"format": "Velox", "version": "11"}), dtype=text)
        for group in ("Displays/ImageDisplay", "SharedProperties", "Features"):
            f.create_group(group)
        settings = {"1": {"elementSelection": ["8", "26"]}}
        for key, value in settings.items():
            f.create_dataset(
                f"SharedProperties/EDSSpectrumQuantificationSettings/{key}",
                data=_json(value),
                dtype=text,
            )
        image = f.create_group("Data/Image/a")
        image.create_dataset("Data", data=np.zeros((ny, nx, 1), np.uint16), chunks=(ny, nx, 1))
        image["Metadata"] = _column(metadata | {"BinaryResult": metadata["BinaryResult"]})
        f.create_dataset(
            "Data/SpectrumImage/b/SpectrumImageSettings",
            data=_json({"endFramePosition": "1"}),
            dtype=text,
        )
        f.create_group("Data/SpectrumStream")
        for i, cube in enumerate([] if pruned else streams):
            group = f.create_group(f"Data/SpectrumStream/s{i}")
            events = []
            for pixel in cube.reshape(-1, channels):
                events += [*np.repeat(np.arange(channels), pixel), 65535]
            group["Data"] = np.array(events, np.uint16)[:, None]
            group["Metadata"] = _column(metadata)
            group.create_dataset(
                "AcquisitionSettings",
                data=_json({"bincount": str(channels), "StreamEncoding": "uint16"}),
                dtype=text,
            )
        if spectrum is not None:
            group = f.create_group("Data/Spectrum/c")
            group.create_dataset("Data", data=spectrum[:, None], chunks=(len(spectrum), 1))
            group["Metadata"] = _column(metadata)
    return path
