"""Judges discovery messages as Home Assistant does. Runs in an environment that has it, apart from ours.

Standard input is a JSON object: the messages by topic, and a payload for each state topic. What it prints
is one too: by topic what a button would publish, or what an entity would show of the payload. A message that
Home Assistant refuses ends it.
"""

import asyncio
import importlib
import json
import sys
import tempfile
from typing import Any

from homeassistant.components.mqtt import models
from homeassistant.core import HomeAssistant
from homeassistant.helpers.template import Template


async def judge(messages: dict[str, dict[str, Any]], states: dict[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        hass = HomeAssistant(folder)
        found: dict[str, Any] = {}
        for topic, message in messages.items():
            component = topic.split("/")[1]
            platform = importlib.import_module(f"homeassistant.components.mqtt.{component}")
            checked = platform.DISCOVERY_SCHEMA(message)
            if component == "button":
                template = Template(str(message["command_template"]), hass)
                found[topic] = [models.MqttCommandTemplate(template).async_render("PRESS") for _ in range(2)]
                continue
            payload = states[checked["state_topic"]]
            template = Template(str(message["value_template"]), hass)
            value = models.MqttValueTemplate(template).async_render_with_possible_json_value(payload)
            empty = models.MqttValueTemplate(template).async_render_with_possible_json_value("")
            found[topic] = [str(value), str(empty)]
            if "json_attributes_template" in message:
                attributes = Template(str(message["json_attributes_template"]), hass)
                render = models.MqttValueTemplate(attributes).async_render_with_possible_json_value
                found[topic] += [json.loads(render(payload)), json.loads(render(""))]
        await hass.async_stop(force=True)
    return found


if __name__ == "__main__":
    given = json.load(sys.stdin)
    print(json.dumps(asyncio.run(judge(given["messages"], given["states"]))))
