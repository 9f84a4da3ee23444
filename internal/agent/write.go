package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"ingot/internal/agent/command"
	"ingot/internal/agent/device"
	"ingot/internal/configdrive"
	"ingot/internal/deploy"
	"ingot/internal/image"
	"ingot/internal/ingot"
)

// Classes of errors of ironic-python-agent.
const (
	downloadError = "ImageDownloadError"
	checksumError = "ImageChecksumError"
	writeError    = "ImageWriteError"
	noDevice      = "DeviceNotFound"
)

// ImageInfo is what a conductor says of an image; the names are Ironic's.
type ImageInfo struct {
	ID        string   `json:"id"`
	URLs      []string `json:"urls"`
	Format    string   `json:"disk_format"`
	Algorithm string   `json:"os_hash_algo"`
	Value     string   `json:"os_hash_value"`
	Checksum  string   `json:"checksum"`
	// Type is whole-disk or partition. Conductors up to 2023 tell by root_mb.
	Type string `json:"image_type"`
	Partitions
	// ConfigDrive is what conductors say here as well as beside.
	ConfigDrive any            `json:"configdrive"`
	Proxies     map[string]any `json:"proxies"`
	// Strategy is http_basic, with a name and a password for the server of the image.
	Strategy string `json:"image_server_auth_strategy"`
	User     string `json:"image_server_user"`
	Password string `json:"image_server_password"`
}

// WriteArgs are the arguments of write_image and prepare_image.
type WriteArgs struct {
	Image       ImageInfo `json:"image_info"`
	ConfigDrive any       `json:"configdrive"`
}

// ParseWriteArgs reads and checks arguments. The error is a *command.Fault.
func ParseWriteArgs(params json.RawMessage) (WriteArgs, error) {
	var a WriteArgs
	if err := json.Unmarshal(params, &a); err != nil {
		return WriteArgs{}, command.BadParams("image_info: %v", err)
	}
	i := a.Image
	switch {
	case len(i.URLs) == 0:
		return WriteArgs{}, command.BadParams("image_info has no urls")
	case i.Strategy != "" && i.Strategy != "http_basic":
		return WriteArgs{}, command.BadParams("image_server_auth_strategy is %.40q; only http_basic is known",
			i.Strategy)
	case len(i.Proxies) > 0:
		return WriteArgs{}, command.BadParams("this agent knows no proxies: publish the image where the " +
			"machine reaches it, and remove image_http_proxy and image_https_proxy from driver_info")
	}
	if i.isPartition() {
		if _, err := i.request(); err != nil {
			return WriteArgs{}, err
		}
	} else if i.Preserve {
		return WriteArgs{}, command.BadParams("there is preserve_ephemeral, but the image is one of a whole disk, " +
			"which leaves no partition as it is: if it is not, set image_type=partition in instance_info")
	}
	for _, from := range i.URLs {
		u, err := url.Parse(from)
		if err != nil { // which would show what may be secret
			return WriteArgs{}, command.BadParams("one of the urls of the image is none")
		}
		if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return WriteArgs{}, command.BadParams("the image is at %.200q, but this agent reads http and "+
				"https URLs", printable(place(u)))
		}
	}
	if a.ConfigDrive == nil {
		a.ConfigDrive = i.ConfigDrive
	}
	if a.ConfigDrive == "" {
		a.ConfigDrive = nil
	}
	a.Image.ConfigDrive = nil
	return a, nil
}

func (i ImageInfo) isPartition() bool {
	return i.Type == "partition" || i.Type == "" && i.RootMB > 0
}

// place is a URL without what may be secret: user, query and fragment. Whoever asks how commands fare
// sees their errors, and a signed URL is all that one needs to read an image.
func place(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// reference is the image at one of the URLs.
func (i ImageInfo) reference(from string, opt image.Options) (image.Reference, error) {
	if i.Strategy != "" {
		u, err := url.Parse(from)
		if err != nil {
			return image.Reference{}, command.BadParams("one of the urls of the image is none")
		}
		u.User = url.UserPassword(i.User, i.Password)
		from = u.String()
	}
	return image.FromInstanceInfo(map[string]any{
		"image_source": from, "image_checksum": i.Checksum, "image_os_hash_algo": i.Algorithm,
		"image_os_hash_value": i.Value, "image_disk_format": i.Format,
	}, opt)
}

// writeImage writes the image, and the config drive if there is one, to the disk.
func (s *service) writeImage(ctx context.Context, args WriteArgs, job *command.Job) (string, error) {
	defer debug.FreeOSMemory()
	idle := residentMemory()
	c := s.machine.disk()
	if c.err != nil {
		return "", command.Errorf(noDevice, "%v", c.err)
	}
	if c.remark != "" {
		s.say("%s: %s", c.disk, c.remark)
	}
	client := s.imageClient()
	defer client.CloseIdleConnections()
	opt := deploy.Options{Seed: s.standing.Node,
		Progress: func(p deploy.Progress) { job.Progress(p.Done, p.Total) }}
	if args.ConfigDrive != nil {
		drive, err := configdrive.Image(ctx, client, args.ConfigDrive, s.standing.Node)
		if err != nil {
			return "", command.Errorf(downloadError, "%v", err)
		}
		opt.ConfigDrive = drive
	}
	s.mu.Lock()
	s.written, s.loaded = nil, "" // what is there now is overwritten, whatever comes of that
	s.mu.Unlock()
	disk, err := s.machine.open(c.disk)
	if err != nil {
		return "", command.Errorf(writeError, "%v. Is it lent by iSCSI?", err)
	}
	defer disk.Close()
	plan, err := s.planFor(args.Image, disk, opt.ConfigDrive)
	if err != nil {
		return "", err
	}
	s.say("writing the image to %s", c.disk)
	r, err := s.writeFromAny(ctx, client, disk, writing{args.Image, plan, opt})
	if err != nil {
		s.say("error: %s", printable(err.Error()))
		return "", err
	}
	w := written{Result: r, plan: plan, disk: c.disk.Name,
		local: strings.EqualFold(args.Image.BootOption, "local")}
	s.mu.Lock()
	s.written = &w
	s.mu.Unlock()
	s.say("image written and verified: %d bytes in %s, with %d MiB of memory above the idle agent", r.Read,
		r.Duration.Round(time.Millisecond), (peakMemory()-idle)>>20)
	return fmt.Sprintf("image (%s) written to device /dev/%s root_uuid=%s", args.Image.ID, c.disk.Name,
		w.rootUUID()), nil
}

// writing is what is written to a disk.
type writing struct {
	info ImageInfo
	plan *deploy.Plan // of a partition image; nil: of a whole disk
	opt  deploy.Options
}

const (
	// sourcePatience is how long sources are asked that cannot be reached, say that they are busy, or break
	// off, from the first time on that they do. A conductor says so while it fetches the image itself.
	sourcePatience = 3 * time.Minute
	// longestSourcePause is the pause between two rounds that others grow to.
	longestSourcePause = 10 * time.Second
)

// patience is what is left for sources that fail. It begins with a failure, and anew with one that comes
// farther on in the image than all before: a source that breaks off after an hour is asked again.
type patience struct {
	length   time.Duration
	end      time.Time // zero before the first failure
	farthest int64
}

// failed hears that a source failed after so many bytes of the image.
func (p *patience) failed(now time.Time, after int64) {
	if p.end.IsZero() || after > p.farthest {
		p.end, p.farthest = now.Add(p.length), max(after, p.farthest)
	}
}

func (p *patience) over(now time.Time) bool { return now.After(p.end) }

// writeFromAny tries the URLs one after the other, again and again. One that has no image, or another
// one, is not asked again. What went wrong with the disk, or with an image that does not fit, another
// source would not change.
func (s *service) writeFromAny(ctx context.Context, client *http.Client, disk *device.Disk,
	job writing) (deploy.Result, error) {
	fetch := image.Options{Client: client, AllowMD5: s.standing.MD5,
		Note: func(text string) { s.say("%s", printable(text)) }}
	if len(job.info.URLs) > 1 {
		fetch.Retries = 1 // the next one is likelier to be there than this one to come back
	}
	sources, left := slices.Clone(job.info.URLs), patience{length: s.patience}
	for pause := s.pause; ; pause = min(pause*2, longestSourcePause) {
		var failed sourceError
		for i := 0; i < len(sources); {
			r, err := s.writeFrom(ctx, sources[i], fetch, disk, job)
			if err == nil || !errors.As(err, &failed) || ctx.Err() != nil {
				return r, err
			}
			left.failed(time.Now(), failed.after)
			if failed.again {
				i++
			} else {
				sources = slices.Delete(sources, i, i+1)
			}
			if len(sources) > 0 {
				s.say("%s; another source, or this one later", printable(failed.Details))
			}
		}
		if len(sources) == 0 || left.over(time.Now()) {
			return deploy.Result{}, failed
		}
		select {
		case <-ctx.Done():
			return deploy.Result{}, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// sourceError is about the source of an image.
type sourceError struct {
	*command.Fault
	// again says that it may be well later.
	again bool
	// after is how many bytes of the image came before.
	after int64
}

func (e sourceError) Unwrap() error { return e.Fault }

// lost has the class of an error of a source.
func lost(err error, after int64) sourceError {
	kind := downloadError
	if errors.As(err, new(*image.ChecksumError)) {
		kind = checksumError
	}
	return sourceError{command.Errorf(kind, "%v", err), ingot.KindOf(err) == ingot.Unavailable, after}
}

// writeFrom writes the image from one URL. An error is a sourceError or a *command.Fault.
func (s *service) writeFrom(ctx context.Context, from string, fetch image.Options, disk *device.Disk,
	job writing) (deploy.Result, error) {
	ref, err := job.info.reference(from, fetch)
	if err != nil {
		return deploy.Result{}, command.BadParams("%v", err)
	}
	dir, room, undo, err := s.machine.spool()
	if err != nil {
		return deploy.Result{}, command.Errorf(downloadError, "%v", err)
	}
	defer undo()
	fetch.SpoolDir = dir
	img, err := image.Open(ctx, ref, fetch)
	if errors.Is(err, image.ErrNoRoom) {
		return deploy.Result{}, command.Errorf(downloadError, "the image is qcow2, which would have to "+
			"be kept whole in the memory of this machine, and is larger than half of the free %d MiB. "+
			"Publish it as raw (also compressed by zstd, gzip or xz), which is streamed, have the "+
			"conductor convert it (force_raw_images), or use deploy interface iscsi", room>>19)
	}
	if err != nil {
		return deploy.Result{}, lost(err, 0)
	}
	defer img.Close()
	w := &watched{Image: img}
	r, err := put(ctx, disk, w, job)
	switch {
	case err == nil:
		return r, nil
	case w.failed:
		return r, lost(err, w.read)
	}
	return r, command.Errorf(writeError, "%v", err)
}

// watched remembers whether it was the image that failed, and how far it was read.
type watched struct {
	*image.Image
	failed bool
	read   int64
}

func (w *watched) Next(ctx context.Context, buf []byte) (int64, bool, error) {
	n, zero, err := w.Image.Next(ctx, buf)
	w.read += n
	if err != nil && !errors.Is(err, io.EOF) {
		w.failed = true
	}
	return n, zero, err
}

var _ deploy.Source = (*watched)(nil)

// imageClient fetches images. They are verified by their digests; the certificate is about who sees
// the URL, which may be signed.
func (s *service) imageClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: s.params.Insecure},
	}}
}

// eraseMetadata zeroes the ends of disks, where partition tables and RAID metadata are.
func (s *service) eraseMetadata(ctx context.Context, disks []Disk) error {
	for _, d := range disks {
		if err := s.erase(ctx, d); err != nil {
			return command.Errorf("BlockDeviceEraseError", "erase metadata of /dev/%s: %v", d.Name, err)
		}
		s.say("metadata of %s erased", d)
	}
	return nil
}

// endSize is what is zeroed at each end of a disk in bytes: GPT, MBR and RAID superblocks are there.
const endSize = 1 << 20

func (s *service) erase(ctx context.Context, d Disk) error {
	disk, err := s.machine.open(d)
	if err != nil {
		return err
	}
	defer disk.Close()
	n := min(endSize, disk.Size())
	for _, off := range slices.Compact([]int64{0, disk.Size() - n}) {
		if err := disk.WriteZeroes(ctx, off, n); err != nil {
			return err
		}
	}
	return disk.Sync(ctx)
}

// tell is a list of disks for people.
func tell(disks []Disk) string {
	if len(disks) == 0 {
		return "none"
	}
	return strings.TrimSpace(join(disks, "; "))
}
