"""Verdicts on prompts, guarded retrieval, and labels to learn from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from secmon_dagster.api.auth import Reader
from secmon_dagster.api.problems import documented
from secmon_dagster.api.work import Operates
from secmon_dagster.orchestration.prompts import detector_in_use
from secmon_dagster.vecsec import AttackType, TrainingRow
from secmon_dagster.vecsec.events import analyze_and_record
from secmon_dagster.vecsec.inference import configured
from secmon_dagster.vecsec.learning import give_feedback
from secmon_dagster.vecsec.retrieval import reader_of, retrieve

router = APIRouter(prefix="/api/vecsec", tags=["vecsec"])

Text = Annotated[str, Field(min_length=1, max_length=200_000)]


class AnalyzeIn(BaseModel):
    """A prompt to judge."""

    text: Text


class AnalysisOut(BaseModel):
    """A verdict and what it rests on."""

    verdict: str
    probability: float
    score: float
    attack_type: str
    reasons: list[str]
    view: str
    similarity: float
    margin: float
    nearest: dict[str, Any] | None
    decided_by: str


class RetrieveIn(BaseModel):
    """A question to the guarded documents."""

    query: Text
    columns: list[Literal["title", "content", "attributes"]] = Field(
        default=["title", "content"], min_length=1, max_length=3
    )
    limit: int = Field(default=5, ge=1, le=100)


class DocumentOut(BaseModel):
    """One document, with the columns asked for."""

    document_id: str
    columns: dict[str, Any]
    similarity: float


class FeedbackIn(BaseModel):
    """A label for a prompt: what the detector should have said."""

    text: Text
    label: Literal[0, 1]
    family: str = Field(default="feedback", min_length=1, max_length=100)
    attack_type: AttackType = AttackType.NONE


class FeedbackOut(BaseModel):
    """How many labels were kept."""

    kept: int


@router.post("/analyze", response_model=AnalysisOut, responses=documented(413))
def analyze(who: Reader, body: AnalyzeIn) -> dict[str, Any]:
    """The verdict on one prompt; it is counted and its hash kept.

    Where an inference service is set up, a flagged prompt is judged by it too; ``decided_by`` says
    who decided.
    """
    found = analyze_and_record(detector_in_use(), body.text, actor=who.user_id, client=configured())
    return asdict(found)


@router.post("/retrieve", response_model=list[DocumentOut], responses=documented(413))
def retrieve_documents(who: Reader, body: RetrieveIn) -> list[dict[str, Any]]:
    """The documents most like the query among those the caller may read."""
    columns = tuple(dict.fromkeys(body.columns))
    found = retrieve(body.query, reader_of(who.user_id), columns=columns, limit=body.limit)
    return [asdict(document) for document in found]


@router.post(
    "/feedback", status_code=202, response_model=FeedbackOut, responses=documented(409, 413)
)
def feedback(call: Operates, body: FeedbackIn) -> Response:
    """Keep a label for the next round of learning; the caller is its source."""
    row = TrainingRow(body.text, body.label, body.family, body.attack_type, call.who.user_id)
    return call.do(lambda: {"kept": give_feedback([row])}, body=body, status=202)
