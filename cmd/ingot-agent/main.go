// Command ingot-agent is process 1 of the deploy ramdisk; package agent does everything.
package main

import (
	"fmt"
	"os"

	"ingot/internal/agent"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "ingot-agent: runs as the first process of the deploy ramdisk "+
			"only; `ingot ramdisk build` puts it there")
		os.Exit(2)
	}
	agent.Init()
}
