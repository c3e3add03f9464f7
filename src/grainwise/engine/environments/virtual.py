OWN_PTH = "grainwise_driver.pth"
