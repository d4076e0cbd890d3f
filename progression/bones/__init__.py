"""The bones in a knee's picture: outlines of femur and tibia, and where knees stand in a film."""
