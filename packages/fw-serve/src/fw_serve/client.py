"""Typed client of the service.

with Client("http://127.0.0.1:8000") as client:
    video = client.create("room.png", "a sunny room", trajectory={"preset": "orbit", "angle_deg": 20})
    video = client.wait(video.id, on_change=lambda v: print(v.stage, v.progress))
    client.download(video.id, "pointcloud", "room.glb")
"""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from fw_core.files import replacing
from fw_model.pipeline.settings import GenerationSettings
from fw_serve.api.schemas import Estimate, Model, PresetInfo, Video

__all__ = ["Client", "ServiceError", "Video"]

LONGEST_WAIT_S = 60.0


class ServiceError(RuntimeError):
    """The service refused a request, failed, or cannot be reached; the message says why."""

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status; None without a response."""
        self.code = code
        """Machine-readable reason."""


class Client:
    """Client of one service.

    Args:
        base_url: address of the service, such as http://127.0.0.1:8000.
        api_key: API key, if the service requires one.
        timeout_s: maximum seconds for one response.
        retries: maximum number of retries after 429, 503 or a lost connection; retried creations are idempotent.
        sleep: waits for a number of seconds.
        transport: transport of httpx, for tests.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 4,
        sleep: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self.base_url, self.retries, self._sleep = base_url.rstrip("/"), retries, sleep
        self._http = httpx.Client(base_url=self.base_url, headers=headers, timeout=timeout_s, transport=transport)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def create(
        self,
        image: str | Path | bytes,
        prompt: str,
        *,
        trajectory: str | Path | Mapping[str, Any] | None = None,
        settings: GenerationSettings | None = None,
        size: str | None = None,
        seconds: str | None = None,
        model: str | None = None,
        lora: str | None = None,
        priority: int = 0,
        webhook: str | None = None,
        **changes: Any,
    ) -> Video:
        """Queue a world.

        Args:
            image: the first frame, a file or its content.
            prompt: text that describes the world.
            trajectory: the name of a preset, a path as the API describes it, or a camera file. Default: an orbit.
            settings: see `GenerationSettings`.
            size: WIDTHxHEIGHT, instead of width and height in the settings.
            seconds: length of the clip, instead of num_frames in the settings.
            model: name of the model. Default: the first one served.
            lora: name of a LoRA that the model lists.
            priority: jobs of higher priority run first, up to the limit of the API key.
            webhook: https URL to notify at the end.
            changes: fields of `GenerationSettings` to set, such as `num_frames=17, seed=1`.

        Raises:
            ServiceError: the service refused the request or cannot be reached.
            ValueError: only one of width and height.
            TypeError: `changes` has a name that is not a field of `GenerationSettings`.
        """
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
        files: dict[str, tuple[str, bytes]] = {"input_reference": ("image", content)}
        chosen = (settings or GenerationSettings()).updated(**changes).to_dict()
        standard = GenerationSettings().to_dict()
        values = {name: value for name, value in chosen.items() if value != standard[name]}
        width, height = values.pop("width", None), values.pop("height", None)
        if (width is None) != (height is None):
            raise ValueError("width and height: give both or none")
        size = size or (f"{width}x{height}" if width else None)
        values |= {"prompt": prompt, "size": size, "seconds": seconds, "model": model, "lora": lora, "webhook": webhook}
        values["priority"] = priority or None
        if isinstance(trajectory, Mapping):
            values["camera_trajectory"] = json.dumps(trajectory)
        elif trajectory is not None and Path(trajectory).is_file():
            files["camera_file"] = ("cameras", Path(trajectory).read_bytes())
        elif trajectory is not None:
            values["camera_trajectory"] = json.dumps({"preset": str(trajectory)})
        if values.get("timesteps"):
            values["timesteps"] = ",".join(map(str, values["timesteps"]))
        data = {name: str(value) for name, value in values.items() if value is not None}
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        return Video.model_validate(self._json("POST", "/v1/videos", data=data, files=files, headers=headers))

    def get(self, video_id: str) -> Video:
        """One video. Raises ServiceError."""
        return Video.model_validate(self._json("GET", f"/v1/videos/{video_id}"))

    def list(self, *, newest_first: bool = True) -> Iterator[Video]:
        """All your videos, fetched page by page. Raises ServiceError."""
        parameters = {"limit": "100", "order": "desc" if newest_first else "asc"}
        while True:
            page = self._json("GET", "/v1/videos", params=parameters)
            yield from (Video.model_validate(item) for item in page["data"])
            if not page["has_more"]:
                return
            parameters["after"] = page["last_id"]

    def wait(self, video_id: str, *, on_change: Callable[[Video], None] | None = None) -> Video:
        """Follow a video until it is completed.

        Args:
            video_id: id of the video.
            on_change: called with every new state.

        Raises:
            ServiceError: it failed (see `code`), was deleted, or the service cannot be reached.
        """
        video = None
        for video in self.follow(video_id):
            if on_change is not None:
                on_change(video)
        assert video is not None, "following gives at least one state"
        if video.status == "failed":
            assert video.error is not None, "a failed video has an error"
            raise ServiceError(f"{video_id} failed: {video.error.message}", code=video.error.code)
        return video

    def follow(self, video_id: str) -> Iterator[Video]:
        """Every change of a video until it is finished, from events, or from polls if the stream breaks off.

        Raises:
            ServiceError: it was deleted, or the service can no longer be reached.
        """
        finished = False
        while not finished:
            try:
                for video in self._events(video_id):
                    finished = video.status in ("completed", "failed")
                    yield video
            except httpx.HTTPError:
                video = self.get(video_id)  # with retries
                finished = video.status in ("completed", "failed")
                yield video
            if not finished:
                self._sleep(1.0)

    def download(self, video_id: str, variant: str, path: str | Path, *, format: str | None = None) -> Path:  # noqa: A002
        """Download one file of a completed video; an interrupted download leaves no file.

        Args:
            video_id: id of the video.
            variant: video, thumbnail, spritesheet, depth, confidence, geometry, pointcloud, cameras, colmap, world, or
                all (one zip).
            path: the file to write.
            format: file format, for variants with several, such as ply for pointcloud.

        Raises:
            ServiceError: the file does not exist, or the service cannot be reached.
        """
        path = Path(path)
        parameters = {"variant": variant, **({} if format is None else {"format": format})}
        try:
            with self._http.stream(
                "GET", f"/v1/videos/{video_id}/content", params=parameters, follow_redirects=True
            ) as response:
                if response.status_code != 200:
                    response.read()
                    raise _refused(response)
                with replacing(path) as partial, partial.open("wb") as file:
                    for part in response.iter_bytes():
                        file.write(part)
        except httpx.HTTPError as error:
            raise ServiceError(f"{self.base_url}: {error}") from error
        return path

    def cancel(self, video_id: str) -> Video:
        """Stop a video before its next step. Raises ServiceError."""
        return Video.model_validate(self._json("POST", f"/v1/videos/{video_id}/cancel"))

    def delete(self, video_id: str) -> None:
        """Delete a video and its files. Raises ServiceError."""
        self._json("DELETE", f"/v1/videos/{video_id}")

    def remix(self, video_id: str, prompt: str) -> Video:
        """Queue a world with the same image, path and settings and another prompt. Raises ServiceError."""
        return Video.model_validate(self._json("POST", f"/v1/videos/{video_id}/remix", json={"prompt": prompt}))

    def extend(
        self,
        video_id: str,
        *,
        prompt: str | None = None,
        trajectory: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> Video:
        """Queue a world that continues a completed one from its last frame and camera. Raises ServiceError."""
        body = {"prompt": prompt, "camera_trajectory": trajectory, "seed": seed}
        given = {name: value for name, value in body.items() if value is not None}
        return Video.model_validate(self._json("POST", f"/v1/videos/{video_id}/extend", json=given))

    def estimate(self, prompt: str = "a scene", **fields: Any) -> Estimate:
        """Expected time, memory and queue of a creation with these fields of the API. Raises ServiceError."""
        return Estimate.model_validate(self._json("POST", "/v1/videos/estimate", json={"prompt": prompt, **fields}))

    def share(self, video_id: str) -> str:
        """URL of a new read-only link, which needs no API key; an earlier one ends. Raises ServiceError."""
        return self.base_url + str(self._json("POST", f"/v1/videos/{video_id}/share")["path"])

    def unshare(self, video_id: str) -> None:
        """Revoke the read-only link of a video. Raises ServiceError."""
        self._json("DELETE", f"/v1/videos/{video_id}/share")

    def models(self) -> "tuple[Model, ...]":
        """The served models, the default first. Raises ServiceError."""
        return tuple(Model.model_validate(item) for item in self._json("GET", "/v1/models")["data"])

    def presets(self) -> "tuple[PresetInfo, ...]":
        """The camera presets. Raises ServiceError."""
        return tuple(PresetInfo.model_validate(item) for item in self._json("GET", "/v1/trajectories")["data"])

    def _events(self, video_id: str) -> Iterator[Video]:
        with self._http.stream("GET", f"/v1/videos/{video_id}/events") as response:
            if response.status_code != 200:
                response.read()
                if response.status_code in (429, 503):  # too many streams: poll once
                    yield self.get(video_id)
                    return
                raise _refused(response)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    data = json.loads(line.removeprefix("data: "))
                    if data is None:
                        raise ServiceError(f"{video_id} was deleted", status=404, code="video_not_found")
                    yield Video.model_validate(data)

    def _json(self, method: str, path: str, **request: Any) -> Any:
        again = method in ("GET", "DELETE") or "Idempotency-Key" in request.get("headers", {})
        for attempt in range(self.retries + 1):
            last = attempt == self.retries
            try:
                response = self._http.request(method, path, **request)
            except httpx.HTTPError as error:
                if last or not again:
                    raise ServiceError(f"{self.base_url} cannot be reached: {error}") from error
                self._sleep(min(LONGEST_WAIT_S, 0.5 * 2**attempt))
                continue
            if response.status_code < 400:
                return response.json()
            if last or response.status_code not in (429, 503):
                raise _refused(response)
            self._sleep(min(LONGEST_WAIT_S, float(response.headers.get("Retry-After", 0.5 * 2**attempt))))
        raise AssertionError("the last attempt returns or raises")


def _refused(response: httpx.Response) -> ServiceError:
    try:
        error = response.json()["error"]
        message = " ".join(str(error["message"]).split())
        return ServiceError(message, status=response.status_code, code=error.get("code"))
    except (ValueError, KeyError, TypeError):
        text = response.text[:200]
        return ServiceError(
            f"the service answered with status {response.status_code}: {text}", status=response.status_code
        )
