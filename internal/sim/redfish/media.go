package redfish

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// Drive is a virtual drive, named as its resource is.
type Drive string

// The drives.
const (
	VirtualCD     Drive = "Cd"
	VirtualFloppy Drive = "Floppy"
)

// mediaTypes are what goes into a drive.
var mediaTypes = map[Drive][]string{
	VirtualCD:     {"CD", "DVD"},
	VirtualFloppy: {"Floppy", "USBStick"},
}

// ErrUnreachable says that a medium could not be opened at its URL.
var ErrUnreachable = errors.New("the medium cannot be read")

// Media is the part of a [Chassis] that has virtual drives. A machine without has no VirtualMedia.
// Media are read only.
type Media interface {
	// Insert opens a medium at its URL and puts it into a drive, in the place of what is there. The
	// error is [ErrUnreachable] if it cannot be read.
	Insert(ctx context.Context, d Drive, url string) error
	// Eject empties a drive; an empty one is left alone.
	Eject(ctx context.Context, d Drive) error
}

// A slot is what clients have been told of a drive.
type slot struct {
	image    string // URL without credentials; empty when ejected
	userName string
	inserted bool
}

// Inserted is the URL of what is in a drive, empty if nothing is.
func (s *Service) Inserted(d Drive) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.media[d].inserted {
		return ""
	}
	return s.media[d].image
}

// LoseMedia ejects all media behind the back of clients.
func (s *Service) LoseMedia(ctx context.Context) {
	s.changing.Lock()
	defer s.changing.Unlock()
	for d := range mediaTypes {
		if s.Inserted(d) != "" {
			s.report(ctx, "lose the medium", s.drives.Eject(ctx, d))
			s.setSlot(d, slot{})
		}
	}
}

func (s *Service) setSlot(d Drive, to slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.media[d] = to
	if d == VirtualCD && !to.inserted {
		s.bootOnReset = false
	}
}

// ejectInBoot loses the media of a machine that has begun to boot, after a while. The caller holds mu.
func (s *Service) ejectInBoot() {
	after, stopped := s.quirks.EjectInBoot, s.done
	if after <= 0 || s.drives == nil {
		return
	}
	s.tasks.Go(func() {
		select {
		case <-stopped:
		case <-time.After(after):
			s.LoseMedia(context.Background())
		}
	})
}

// mediaPath is where the virtual media are, as the quirks say.
func (s *Service) mediaPath() string {
	if s.Quirks().MediaUnderSystem {
		return SystemPath + "/VirtualMedia"
	}
	return ManagerPath + "/VirtualMedia"
}

// mediaRoutes are the virtual media, below their owner if that has them now.
func (s *Service) mediaRoutes(owner string) []route {
	base := owner + "/VirtualMedia"
	here := func(do func(*http.Request) reply) func(*http.Request) reply {
		return func(r *http.Request) reply {
			_, known := s.driveOf(r)
			if base != s.mediaPath() || r.PathValue("drive") != "" && !known {
				return failure(http.StatusNotFound, "ResourceMissingAtURI", r.URL.Path)
			}
			return do(r)
		}
	}
	offered := func(do func(*http.Request) reply) func(*http.Request) reply {
		return here(func(r *http.Request) reply {
			if !s.dialect().schema {
				return failure(http.StatusNotFound, "ResourceMissingAtURI", r.URL.Path)
			}
			return do(r)
		})
	}
	members := []string{base + "/" + s.driveName(VirtualCD), base + "/" + s.driveName(VirtualFloppy)}
	slices.Sort(members)
	return append([]route{
		{"GET " + base, false, here(resource(collection("VirtualMedia", base, members...)))},
		{"GET " + base + "/{drive}", false, here(func(r *http.Request) reply {
			d, _ := s.driveOf(r)
			return reply{status: http.StatusOK, body: s.drive(d)}
		})},
		{"POST " + base + "/{drive}" + insertPath, false, offered(s.insert)},
		{"POST " + base + "/{drive}" + ejectPath, false, offered(s.eject)},
	}, s.oemRoutes(base, here)...)
}

// The actions of a drive, below it.
const (
	insertPath = "/Actions/VirtualMedia.InsertMedia"
	ejectPath  = "/Actions/VirtualMedia.EjectMedia"
)

// drive is a virtual drive as clients read it.
func (s *Service) drive(d Drive) object {
	at, l := s.mediaPath()+"/"+s.driveName(d), s.dialect()
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.media[d]
	body := object{
		"@odata.id":            at,
		"@odata.type":          "#VirtualMedia.v1_3_2.VirtualMedia",
		"Id":                   s.driveName(d),
		"Name":                 "Virtual " + string(d),
		"MediaTypes":           mediaTypes[d],
		"Inserted":             v.inserted,
		"Image":                nil,
		"ImageName":            nil,
		"ConnectedVia":         "NotConnected",
		"UserName":             nil,
		"WriteProtected":       true,
		"TransferMethod":       "Stream",
		"TransferProtocolType": nil,
	}
	if l.schema {
		body["Actions"] = object{
			"#VirtualMedia.InsertMedia": object{"target": at + insertPath},
			"#VirtualMedia.EjectMedia":  object{"target": at + ejectPath},
		}
	}
	if l.oem != "" {
		body["Image"], body["Oem"] = "", s.oemDrive(at, d)
	}
	if v.image != "" {
		scheme, _, _ := strings.Cut(v.image, ":")
		body["Image"], body["ImageName"] = v.image, path.Base(v.image)
		body["TransferProtocolType"] = strings.ToUpper(scheme)
	}
	if v.userName != "" {
		body["UserName"] = v.userName
	}
	if v.inserted {
		body["ConnectedVia"] = "URI"
	}
	return body
}

// An insertion is what clients say of a medium.
type insertion struct {
	Image, UserName, Password string
	Inserted                  *bool
}

// insert puts a medium into a drive.
func (s *Service) insert(r *http.Request) reply {
	var body insertion
	if err := decode(r, &body); err != nil {
		return failure(http.StatusBadRequest, "MalformedJSON")
	}
	return s.insertImage(r, body)
}

// insertImage puts a medium into the drive that a request is about.
func (s *Service) insertImage(r *http.Request, body insertion) reply {
	const action = "VirtualMedia.InsertMedia"
	if body.Image == "" {
		return failure(http.StatusBadRequest, "ActionParameterMissing", action, "Image")
	}
	u, err := url.Parse(body.Image)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" ||
		s.Quirks().PlainURLs && (path.Ext(u.Path) == "" || u.RawQuery != "") {
		return failure(http.StatusBadRequest, "ActionParameterValueFormatError", body.Image, "Image", action)
	}
	if body.UserName != "" {
		u.User = url.UserPassword(body.UserName, body.Password)
	}
	d, _ := s.driveOf(r)
	told := slot{image: body.Image, userName: body.UserName, inserted: body.Inserted == nil || *body.Inserted}
	return s.act(r, func(ctx context.Context) reply { return s.doInsert(ctx, d, u, told) })
}

// doInsert inserts what is at a URL, of which clients are told.
func (s *Service) doInsert(ctx context.Context, d Drive, u *url.URL, told slot) reply {
	s.changing.Lock()
	defer s.changing.Unlock()
	switch full := s.Inserted(d) != ""; {
	case full && s.o.Model != "":
		return failure(http.StatusBadRequest, maxMedia)
	case full && s.Quirks().EjectFirst:
		return failure(http.StatusBadRequest, "ResourceInUse")
	}
	if s.Quirks().InsertDoesNothing {
		return reply{status: http.StatusNoContent}
	}
	if told.inserted {
		if err := s.drives.Insert(ctx, d, u.String()); err != nil {
			s.report(ctx, "insert a medium", err)
			if errors.Is(err, ErrUnreachable) {
				return failure(http.StatusBadRequest, "CouldNotEstablishConnection", told.image)
			}
			return failure(http.StatusInternalServerError, "InternalError")
		}
	}
	s.setSlot(d, told)
	return reply{status: http.StatusNoContent}
}

// eject empties a drive.
func (s *Service) eject(r *http.Request) reply {
	d, _ := s.driveOf(r)
	return s.act(r, func(ctx context.Context) reply {
		s.changing.Lock()
		defer s.changing.Unlock()
		if err := s.drives.Eject(ctx, d); err != nil {
			s.report(ctx, "eject a medium", err)
			return failure(http.StatusInternalServerError, "InternalError")
		}
		s.setSlot(d, slot{})
		return reply{status: http.StatusNoContent}
	})
}

// Tray is the drives of a [Board]: they hold URLs that nobody opens.
type Tray struct {
	mu     sync.Mutex // guards the fields below
	media  map[Drive]string
	refuse error
}

var _ Media = (*Tray)(nil)

// Refuse has Insert fail from now on, or succeed with nil.
func (t *Tray) Refuse(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refuse = err
}

// Holds is what is in the drives, with the credentials of URLs.
func (t *Tray) Holds() map[Drive]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.media)
}

// Insert is of [Media].
func (t *Tray) Insert(_ context.Context, d Drive, url string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refuse != nil {
		return t.refuse
	}
	if t.media == nil {
		t.media = map[Drive]string{}
	}
	t.media[d] = url
	return nil
}

// Eject is of [Media].
func (t *Tray) Eject(_ context.Context, d Drive) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.media, d)
	return nil
}
