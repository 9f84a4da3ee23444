package drill

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"ingot/internal/lab"
	"ingot/internal/postgres"
)

// cluster is the temporary cluster of a drill.
type cluster struct {
	*lab.Lab
	site
	postgres *postgres.Server
	origin   *origin
}

// start makes files, a database, servers and machines.
func start(ctx context.Context, o Options) (c *cluster, err error) {
	c = &cluster{}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("place of the drill: %w", err)
	}
	all := makeContent()
	files, err := all.write(filepath.Join(dir, "files"))
	if err != nil {
		return nil, err
	}
	if c.postgres, err = postgres.Start(); err != nil {
		return nil, err
	}
	c.Lab, err = lab.Start(ctx, lab.Options{
		Dir: dir, Binary: o.Binary, Files: files, Conductors: o.Conductors,
		Fleet:    lab.FleetOptions{Machines: o.Machines, DiskSize: diskSize, TFTP: o.TFTP},
		Database: c.postgres.URL, CheckInterval: 10 * time.Second,
	})
	if err == nil {
		err = c.watch(ctx)
	}
	if err == nil {
		err = c.Namespace.Do(func() (err error) {
			c.origin, err = serve(c.Addr(), all)
			return err
		})
	}
	if err == nil {
		c.Fleet.DriverInfo = c.origin.bootFiles()
		c.site = site{fleet: c.Fleet, machines: o.Machines, timeout: o.Timeout, progress: o.Progress,
			image: all.image("file://" + files.Image.RawPath), digest: all.disk()}
		err = c.dial()
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// dial prepares clients of all servers.
func (c *cluster) dial() error {
	for _, s := range c.Servers {
		api, err := s.Client()
		if err != nil {
			return err
		}
		c.apis = append(c.apis, api)
	}
	return nil
}

// close removes all but the logs.
func (c *cluster) close() error {
	var errs []error
	if c.origin != nil {
		errs = append(errs, c.origin.server.Close())
	}
	if c.Lab != nil {
		errs = append(errs, c.Lab.Close())
	}
	c.postgres.Stop()
	return errors.Join(errs...)
}
