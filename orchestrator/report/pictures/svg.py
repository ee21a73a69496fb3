"""A matplotlib drawing as an element of a web page: unique ids, variables for colours, titles on points."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
HREF = f"{{{XLINK}}}href"
REFERENCE = re.compile(r"url\(#")
COLOUR = re.compile(r"#[0-9a-f]{6}\b")


def inline(svg: bytes, prefix: str, alt: str, titles: Mapping[str, Sequence[str]], variables: Mapping[str, str]) -> str:
    """`svg`, as matplotlib wrote it, for a page that holds several.

    Ids and references get `prefix`; colours in styles become `variables`; the k-th marker of the group whose id is a
    key of `titles`, or its k-th shape, gets the k-th text as its title; a reader for the blind says `alt`.
    """
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    for group in list(root.iter(f"{{{SVG}}}g")):
        _add_titles(group, titles.get(group.get("id", ""), ()))
    for parent in list(root.iter()):
        for child in list(parent):
            # What metadata says changes with the version; the style would hold for the whole page, which has it.
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _rewrite(element, prefix, variables)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    return ElementTree.tostring(root, encoding="unicode")


def _add_titles(group: ElementTree.Element, texts: Sequence[str]) -> None:
    """Only if there are as many markers as texts: matplotlib leaves out a point outside the figure."""
    markers = list(group.iter(f"{{{SVG}}}use")) or list(group.iter(f"{{{SVG}}}path"))
    if len(markers) == len(texts):
        for marker, text in zip(markers, texts, strict=True):
            ElementTree.SubElement(marker, f"{{{SVG}}}title").text = text


def _rewrite(element: ElementTree.Element, prefix: str, variables: Mapping[str, str]) -> None:
    if "id" in element.attrib:
        element.set("id", prefix + element.attrib["id"])
    if element.get(HREF, "").startswith("#"):
        element.set(HREF, f"#{prefix}{element.attrib[HREF][1:]}")
    for name in ("clip-path", "style"):
        if name in element.attrib:
            element.set(name, REFERENCE.sub(f"url(#{prefix}", element.attrib[name]))
    if "style" in element.attrib:
        style = COLOUR.sub(lambda found: variables.get(found[0], found[0]), element.attrib["style"])
        element.set("style", style)
