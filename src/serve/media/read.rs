//! Reading of addresses into the scratch: base64 is decoded, addresses are fetched, local files are opened. One medium
//! is at most as large as the policy says, the frames of a list together.

use std::fs::File;
use std::io::Read;

use crate::error::{Error, Kind, Result};

use super::address::MediaAddress;
use super::base64_stream::{decode, decoded_len};
use super::content::MediaContent;
use super::image_content::FrameFormat;
use super::key::{ContentHash, ListFrames};
use super::local::LocalFile;
use super::scratch::{FrameDirectory, FrameFacts, Scratch, ScratchWriter, too_large};
use super::{MediaPolicy, ResolveContext};

/// Bytes copied at once.
const PIECE: usize = 64 << 10;

/// Downloads a URL into a writer.
pub(super) type DownloadFn =
    Box<dyn Fn(&str, &mut ScratchWriter, &dyn Fn() -> bool) -> Result<()> + Send + Sync + 'static>;

/// Content that was read.
#[derive(Debug)]
pub(super) struct ReadContent {
    pub(super) content: MediaContent,
    pub(super) hash: ContentHash,
}

/// Formats that frames of a list may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListedFormat {
    /// JPEG, of `data:video/jpeg`.
    Jpeg,
    /// Any image.
    Image,
}

impl ListedFormat {
    fn check(self, first: &[u8]) -> Result<FrameFormat> {
        match self {
            Self::Jpeg => FrameFormat::check_jpeg(first),
            Self::Image => FrameFormat::of(first),
        }
    }
}

/// Frames of a list, unread.
#[derive(Debug)]
pub(super) struct FrameList<'t> {
    pub(super) addresses: Vec<MediaAddress<'t>>,
    pub(super) format: ListedFormat,
}

/// Reader of the addresses of one request.
pub(super) struct ContentReader<'r> {
    pub(super) policy: &'r MediaPolicy,
    pub(super) scratch: &'r Scratch,
    pub(super) download: &'r DownloadFn,
    pub(super) context: &'r ResolveContext<'r>,
}

impl ContentReader<'_> {
    /// Reads a file.
    ///
    /// # Errors
    /// See [`super::MediaResolver::resolve`].
    pub(super) fn file(&self, address: &MediaAddress<'_>) -> Result<ReadContent> {
        match address {
            #[cfg(target_os = "linux")]
            MediaAddress::Local(path) => {
                let LocalFile { file, n_bytes } = self.policy.files.open(path)?;
                if n_bytes == 0 {
                    return Err(Error::new(Kind::Empty, "the file is empty (0 bytes)").about(path));
                }
                let hash = ContentHash::of_local(&file).map_err(Error::io(path))?;
                Ok(ReadContent { content: MediaContent::Local(super::content::LocalDescriptor::new(file)), hash })
            }
            MediaAddress::Upload(id) => {
                let file = self.scratch.get(id, self.context.scope)?;
                let hash = file.hash();
                Ok(ReadContent { content: MediaContent::Upload(file), hash })
            }
            _ => {
                let mut writer = self.scratch.create_in_memory(self.policy.max_bytes)?;
                self.fill(address, &mut writer)?;
                let file = writer.finish()?;
                let hash = file.hash();
                Ok(ReadContent { content: MediaContent::File(file), hash })
            }
        }
    }

    /// Reads the frames of a list, of which those of `list` are kept. The hash is that of all frames.
    ///
    /// # Errors
    /// As [`Self::file`], and a frame that is not an image of the list's format, by its number from 1.
    pub(super) fn frames(&self, frames: &FrameList<'_>, list: &ListFrames) -> Result<ReadContent> {
        let mut directory = self.scratch.frame_directory()?;
        let mut hashes = Vec::with_capacity(frames.addresses.len());
        let mut room = self.policy.max_bytes;
        let n = frames.addresses.len();
        for (i, address) in frames.addresses.iter().enumerate() {
            let is_kept = list.positions.binary_search(&i).is_ok();
            let read = self.frame(address, frames.format, FramePlace { directory: &mut directory, room, is_kept });
            let FrameFacts { hash, n_bytes } = read.map_err(|error| error.about(format!("frame {} of {n}", i + 1)))?;
            room = room.saturating_sub(n_bytes);
            hashes.push(hash);
        }
        Ok(ReadContent { content: MediaContent::Frames(directory), hash: ContentHash::of_list(&hashes) })
    }

    /// Reads a frame.
    fn frame(&self, address: &MediaAddress<'_>, format: ListedFormat, place: FramePlace<'_>) -> Result<FrameFacts> {
        let mut writer = place.directory.begin(place.room)?;
        self.fill(address, &mut writer)?;
        let format = format.check(writer.first())?;
        if place.is_kept {
            return place.directory.add(writer, format.ending());
        }
        let file = writer.finish()?;
        Ok(FrameFacts { hash: file.hash(), n_bytes: file.n_bytes() })
    }

    /// Writes the content of an address.
    fn fill(&self, address: &MediaAddress<'_>, writer: &mut ScratchWriter) -> Result<()> {
        match address {
            MediaAddress::Base64(text) => {
                writer.expect(decoded_len(text)?)?;
                decode(text, &mut |bytes| {
                    self.context.check()?;
                    writer.push(bytes)
                })
            }
            MediaAddress::FrameList(_) => Err(Error::invalid("a list of frames inside a list")),
            MediaAddress::Local(path) => {
                let LocalFile { file, n_bytes } = self.policy.files.open(path)?;
                self.copy(file, n_bytes, writer).map_err(|error| error.about(path))
            }
            MediaAddress::Upload(id) => {
                let upload = self.scratch.get(id, self.context.scope)?;
                let file = File::open(upload.path()).map_err(Error::io(upload.path()))?;
                self.copy(file, upload.n_bytes(), writer)
            }
            MediaAddress::Remote(url) => {
                let halt = || (self.context.halt)();
                let downloaded = (self.download)(url, writer, &halt);
                // The writer knows the kind of its own error.
                downloaded.map_err(|error| writer.take_failure().unwrap_or(error))
            }
        }
    }

    fn copy(&self, mut from: File, n_bytes: u64, writer: &mut ScratchWriter) -> Result<()> {
        if n_bytes > self.policy.max_bytes {
            return Err(too_large(n_bytes, self.policy.max_bytes));
        }
        let mut piece = vec![0; PIECE];
        loop {
            self.context.check()?;
            match from.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(n) => writer.push(&piece[..n])?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Destination of a frame.
struct FramePlace<'d> {
    directory: &'d mut FrameDirectory,
    /// Bytes that the frame may have.
    room: u64,
    /// Whether the frame is kept, or only hashed.
    is_kept: bool,
}
