# SPDX-License-Identifier: Apache-2.0
"""The room of host topologies: the interfaces of one host as a description, made so, compared and drawn.

Called by `mizar topology`. Its object is always called HostTopology, because mizar.planner.topology.Topology is
something else (which droplet holds which table) and knows nothing of interfaces. The way through the room:

reading       text of a file -> HostTopology, or every error at once with file, line and field
description   the shape of a HostTopology
checks        what has to fit between its parts
wishes        HostTopology -> the links that the kernel should have
plan          wishes and what was found -> ordered steps, conflicts, missing features; pure
steps         the steps, as values that say what they do
look          what is found, through mizar.kernel
execute       steps, one by one through mizar.kernel; undone backwards when one fails
compare       wishes and what was found -> one row for each object
host          apply, show and delete: the above in their order
picture       a HostTopology as boxes, ports and wires
plantuml, svg the picture as text for PlantUML, and as SVG

Only look, execute and host touch the kernel, only through mizar.kernel.
"""
