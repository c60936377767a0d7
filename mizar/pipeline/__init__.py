# SPDX-License-Identifier: Apache-2.0
"""The gateway's flow pipeline: one description, and what is made of it. See docs/pipeline.md.

`reader` and `builder` make descriptions, `validation` checks them; `plantuml`, `svg`, `rte_flow`, `report` and
`interpreter` are made from them. Knows the model alone; nothing here touches a kernel or a device.
"""
