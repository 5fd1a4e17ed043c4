"""How a project tests its flows: manage.py test."""

from django.test import TestCase

from django_ray import Flow
from django_ray.testing import run_tasks


class ImportTests(TestCase):
    """An import from its button to its mail."""

    def start(self) -> Flow:
        """Click the button."""
        answer = self.client.post("/import/", headers={"accept": "application/json"})
        return Flow.get(answer.json()["id"])

    def test_all_files_are_merged_and_the_report_is_mailed(self) -> None:
        """The merge gets what the files have returned."""
        flow = self.start()
        assert (flow.progress().ready, flow.progress().blocked) == (20, 2)
        *files, merged, mail = run_tasks()
        assert len(files) == 20
        assert merged.return_value == {"files": 20, "products": 100}
        assert mail.return_value == "ada@example.org knows of 100 products from 20 files"

    def test_the_page_shows_how_far_it_is(self) -> None:
        """Before and after."""
        flow = self.start()
        self.assertContains(self.client.get(f"/flow/{flow.id}/"), "0 of 22")
        run_tasks()
        answer = self.client.get(f"/flow/{flow.id}/")
        self.assertContains(answer, "22 of 22")
        self.assertNotContains(answer, "data-progress=")

    def test_a_click_cancels_what_has_not_ended(self) -> None:
        """And nothing runs afterwards."""
        flow = self.start()
        self.assertRedirects(self.client.post(f"/flow/{flow.id}/cancel/"), f"/flow/{flow.id}/")
        assert flow.progress().cancelled == 22
        assert run_tasks() == []

    async def test_the_stream_of_what_has_ended_ends(self) -> None:
        """The page looks again then."""
        answer = await self.async_client.post("/import/")
        await self.async_client.post(f"{answer.headers['location']}cancel/")
        stream = await self.async_client.get(f"{answer.headers['location']}progress/")
        assert [part async for part in stream.streaming_content] == [b"event: end\ndata:\n\n"]

    def test_there_is_no_page_of_what_is_no_flow(self) -> None:
        """A 404."""
        assert self.client.get("/flow/00000000-0000-0000-0000-000000000000/").status_code == 404
