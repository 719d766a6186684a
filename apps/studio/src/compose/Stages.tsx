/** Beside the form: a finished example world at first, the camera path as soon as the draft begins. */

import { useEffect, useState } from 'preact/hooks';
import { Choice } from '../parts';
import { inputImage } from '../state/draft';
import { worldAddress } from '../state/route';
import { examples } from '../state/worlds';
import { address, contentPath } from '../service/api';
import type { Video } from '../service/types';
import { t } from '../words';
import { Preview } from '../world/Preview';
import { PathStage } from './PathStage';

export function Stages() {
  const worlds = examples.value?.worlds ?? [];
  const [shown, setShown] = useState<'example' | 'path'>('example');
  const [chosen, setChosen] = useState(0);
  useEffect(() => {
    if (inputImage.value) setShown('path');
  }, [inputImage.value]);
  const example = worlds[chosen];
  if (!example) return <PathStage />;
  return (
    <div class="stages">
      <div class="stages-head">
        <Choice label={t('stagesLabel')} value={shown} onChange={setShown}
          options={[{ value: 'example', label: t('exampleWorlds') }, { value: 'path', label: t('pathView') }]} />
      </div>
      {shown === 'path' ? <PathStage /> : (
        <section class="example" aria-label={t('exampleWorlds')}>
          <Preview key={example.id} video={example} />
          <p class="note">
            {example.prompt} <a class="text-button" href={worldAddress(example.id)}>{t('exampleOpen')}</a>
          </p>
          <ul class="example-list">
            {worlds.map((one, index) => <Card key={one.id} video={one} on={index === chosen} onClick={() => setChosen(index)} />)}
          </ul>
        </section>
      )}
    </div>
  );
}

function Card({ video, on, onClick }: { video: Video; on: boolean; onClick: () => void }) {
  return (
    <li>
      <button type="button" aria-pressed={on} title={video.prompt} onClick={onClick}>
        <img src={address(contentPath(video.id, 'thumbnail'))} alt={video.prompt} />
      </button>
    </li>
  );
}
