"""Cityscapes train ids of what the street holds."""

ROAD = 0
SIDEWALK = 1
BUILDING = 2
POLE = 5
TRAFFIC_SIGN = 7
VEGETATION = 8
TERRAIN = 9
SKY = 10
PERSON = 11
RIDER = 12
CAR = 13
BICYCLE = 18

UNLABELLED = 255
