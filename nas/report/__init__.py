"""Presentation of results: tables for the terminal, SVG charts, the HTML report and the model cards of exports.

This package only formats records that the steps of a run have written. It measures nothing. `nas.cli` prints the tables
(`tables`), `nas.pipeline.reports` writes the HTML report (`page.render`), and `nas.pipeline.exports` writes the model
cards (`card.write_card`).
"""
