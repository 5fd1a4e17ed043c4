raise KeyboardInterrupt("of the module's own")
