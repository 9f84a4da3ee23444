package sim_test

import "errors"

func runLab(dir string) error { return errors.New("x") }
