"""All settings together: the environment wins over the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.settings.checks import check_kind
from gateway.settings.sections import (
    AccountsSettings,
    BrokerSettings,
    ControlSettings,
    HubSettings,
    LogSettings,
    MessagesSettings,
    MetricsSettings,
    MonitoringSettings,
    ReplaysSettings,
    SessionSettings,
    TopicsSettings,
    TracingSettings,
)

ENVIRONMENT_PREFIX: Final = "GATEWAY_"


class SourcedSettings(BaseSettings):
    """Settings whose environment wins over their file."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        env_parse_none_str="null",
        extra="forbid",
        frozen=True,
        case_sensitive=False,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the library names them
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return env_settings, init_settings


class Settings(SourcedSettings):
    """All settings."""

    hub: HubSettings = HubSettings()
    accounts: AccountsSettings = AccountsSettings()
    session: SessionSettings = SessionSettings()
    broker: BrokerSettings = BrokerSettings()
    topics: TopicsSettings = TopicsSettings()
    messages: MessagesSettings = MessagesSettings()
    shards: int = Field(default=16, ge=1, le=1024)
    """Slices that the accounts are dealt into: fixed when a deployment first starts."""
    memory_bytes: int = Field(default=256 * 1024 * 1024, ge=16 * 1024 * 1024)
    """Bytes that may wait for the broker in this process, for all accounts together."""
    control: ControlSettings = ControlSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    metrics: MetricsSettings = MetricsSettings()
    replays: ReplaysSettings = ReplaysSettings()
    tracing: TracingSettings = TracingSettings()
    log: LogSettings = LogSettings()

    @field_validator("*", mode="before")
    @classmethod
    def _check_kind(cls, value: object, info: ValidationInfo) -> object:
        return check_kind(value, cls.model_fields[str(info.field_name)].annotation)

    @model_validator(mode="after")
    def _check_required(self) -> Settings:
        if not self.hub.url:
            raise ValueError("hub.url is not set")
        if self.accounts.directory is None:
            raise ValueError("accounts.directory is not set")
        return self


class BrokerAlone(SourcedSettings):
    """What a command needs that only looks at the log."""

    model_config = SettingsConfigDict(extra="ignore")

    broker: BrokerSettings = BrokerSettings()


def fields(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every setting: its dotted name, and its field with type, default and description."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field
